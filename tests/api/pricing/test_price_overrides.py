"""Price overrides: internal services set them, immediately or scheduled, and lists never change."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import asyncpg
import httpx
import pytest
import sqlalchemy as sa

from app.auth.principal import ROLES, Scope
from app.core.services import Services
from app.database.engine import Database
from app.database.statements import Query
from app.database.unit_of_work import UnitsOfWork
from app.pricing.prices import Priced
from app.pricing.service import PriceService
from app.usage_events.records import ModelUsage, TokenUsage
from tests.support.polling import until
from tests.support.provider.fake_anthropic import make_key
from tests.support.tenant import MakeToken, Tenant

EMPTY = {"in_force": None, "scheduled": None}
TOKENS = TokenUsage(uncached_input=1_000_000, output=1_000_000)


def override(model: str = "claude-opus-5-5", **prices: str | None) -> dict[str, Any]:
    return {
        "model": model,
        "usd_per_million_tokens": {"uncached_input": "3.60", "output": "18", **prices},
        "usd_per_thousand_web_searches": "9",
    }


@pytest.fixture
def service(tenant: Tenant, make_token: MakeToken) -> Tenant:
    """An internal service with the scope `billing:write`, on the tenant's paths."""
    token = make_token("service", scopes=[*ROLES["service"], Scope.BILLING_WRITE])
    return Tenant(http=tenant.http, organization=tenant.organization, token=token)


async def put_overrides(
    caller: Tenant, *overrides: Any, if_match: str | None = None, **fields: Any
) -> httpx.Response:
    return await caller.request(
        "PUT",
        f"{caller.path}/price-overrides",
        json={"overrides": overrides, **fields},
        headers={} if if_match is None else {"If-Match": if_match},
    )


async def set_overrides(caller: Tenant, *overrides: Any, **fields: Any) -> dict[str, Any]:
    response = await put_overrides(caller, *overrides, **fields)
    assert response.status_code == 200, response.text
    state: dict[str, Any] = response.json()
    return state


async def get_overrides(caller: Tenant) -> dict[str, Any]:
    response = await caller.get(f"{caller.path}/price-overrides")
    assert response.status_code == 200, response.text
    state: dict[str, Any] = response.json()
    return state


async def price(
    services: Services,
    database: Database,
    tenant: Tenant,
    at: datetime,
    model: str = "claude-opus-5-5",
    **how: Any,
) -> Priced:
    """Price usage like ingestion does, in a separate unit of work."""
    async with UnitsOfWork(database).reading(tenant.organization) as uow:
        prices = await services[PriceService].load(uow)
    return prices.price([ModelUsage(model=model, tokens=TOKENS)], at=at, **how)


def in_30_days() -> str:
    return (datetime.now(UTC) + timedelta(days=30)).isoformat()


class TestGetPriceOverrides:
    async def test_returns_null_for_a_new_organization(self, tenant: Tenant) -> None:
        assert await get_overrides(tenant) == EMPTY


class TestSetPriceOverrides:
    async def test_activates_the_list_immediately(self, service: Tenant, tenant: Tenant) -> None:
        before = datetime.now(UTC)

        state = await set_overrides(service, override(cache_read="0.18"), override("deepseek-*"))

        assert state == await get_overrides(tenant)
        assert state["scheduled"] is None
        active = state["in_force"]
        assert (active["number"], active["set_by"]) == (1, "service@example.com")
        assert before - timedelta(minutes=1) < datetime.fromisoformat(active["effective_from"])
        assert active["effective_from"] == active["set_at"]
        assert active["overrides"] == [
            {
                "model": "claude-opus-5-5",
                "usd_per_million_tokens": {
                    "uncached_input": "3.60",
                    "cache_write_5m": None,
                    "cache_write_1h": None,
                    "cache_read": "0.18",
                    "output": "18.00",
                },
                "usd_per_thousand_web_searches": "9.00",
            },
            {
                "model": "deepseek-*",
                "usd_per_million_tokens": {
                    "uncached_input": "3.60",
                    "cache_write_5m": None,
                    "cache_write_1h": None,
                    "cache_read": None,
                    "output": "18.00",
                },
                "usd_per_thousand_web_searches": "9.00",
            },
        ]

    async def test_changes_prices_from_its_start_and_not_before(
        self, service: Tenant, services: Services, database: Database
    ) -> None:
        at = datetime.fromisoformat((await set_overrides(service, override()))["in_force"]["effective_from"])

        after = await price(services, database, service, at)
        before = await price(services, database, service, at - timedelta(microseconds=1))

        assert (after.cost, after.price_version) == (21_600_000_000_000, "override-1")
        assert (before.cost, before.price_version) == (
            24_000_000_000_000,
            services[PriceService].price_list.version,
        )

    async def test_sets_the_only_price_for_a_compatible_endpoint(
        self, service: Tenant, services: Services, database: Database
    ) -> None:
        await set_overrides(service, override("deepseek-*", uncached_input="0.000001", output="0"))
        at = datetime.now(UTC) + timedelta(minutes=1)

        own = await price(services, database, service, at, "deepseek-chat", is_compatible_endpoint=True)
        without_override = await price(services, database, service, at, is_compatible_endpoint=True)

        assert (own.cost, without_override.cost) == (1_000_000, None)

    async def test_an_empty_list_restores_list_prices(
        self, service: Tenant, services: Services, database: Database
    ) -> None:
        first = datetime.fromisoformat(
            (await set_overrides(service, override()))["in_force"]["effective_from"]
        )
        state = await set_overrides(service)

        assert (state["in_force"]["number"], state["in_force"]["overrides"]) == (2, [])
        at = datetime.fromisoformat(state["in_force"]["effective_from"])
        assert (await price(services, database, service, at)).price_version == services[
            PriceService
        ].price_list.version
        assert (await price(services, database, service, first)).price_version == "override-1"

    async def test_setting_the_active_list_changes_nothing(self, service: Tenant) -> None:
        first = await set_overrides(service, override(), override("x"))

        assert await set_overrides(service, override("x"), override()) == first

    async def test_is_in_the_audit_log(self, service: Tenant, tenant: Tenant) -> None:
        await set_overrides(service, override(), override("x"))

        events = (await tenant.get(f"{tenant.path}/audit-events")).json()["data"]

        assert [event["action"] for event in events] == ["prices.overridden"]
        assert events[0]["actor"] == "service@example.com"
        assert (events[0]["details"]["number"], events[0]["details"]["models"]) == (1, 2)

    async def test_checks_if_match(self, service: Tenant) -> None:
        first = await put_overrides(service, override())
        await put_overrides(service, override("x"))

        response = await put_overrides(service, override("y"), if_match=first.headers["ETag"])

        assert (response.status_code, response.json()["code"]) == (412, "precondition_failed")
        read = await service.get(f"{service.path}/price-overrides")
        assert (await put_overrides(service, override("y"), if_match=read.headers["ETag"])).status_code == 200

    async def test_concurrent_lists_are_numbered_in_order(self, service: Tenant) -> None:
        states = await asyncio.gather(*(set_overrides(service, override(f"model-{n}")) for n in range(8)))

        numbered = sorted((state["in_force"] for state in states), key=lambda one: one["number"])
        assert [one["number"] for one in numbered] == list(range(1, 9))
        instants = [one["effective_from"] for one in numbered]
        assert instants == sorted(set(instants))


class TestScheduledPriceOverrides:
    async def test_become_active_at_their_start(
        self, service: Tenant, services: Services, database: Database
    ) -> None:
        await set_overrides(service, override())
        later = in_30_days()

        state = await set_overrides(service, override(output="1"), effective_at=later)

        assert (state["in_force"]["number"], state["scheduled"]["number"]) == (1, 2)
        assert state == await get_overrides(service)
        at = datetime.fromisoformat(later)
        assert (await price(services, database, service, at)).price_version == "override-2"
        just_before = await price(services, database, service, at - timedelta(microseconds=1))
        assert just_before.price_version == "override-1"

    @pytest.mark.parametrize("is_scheduled", [False, True])
    async def test_are_replaced_by_the_next_list(
        self, service: Tenant, services: Services, database: Database, is_scheduled: bool
    ) -> None:
        later = in_30_days()
        await set_overrides(service, override(), effective_at=later)
        earlier = (datetime.fromisoformat(later) - timedelta(days=1)).isoformat()

        state = await set_overrides(service, override("x"), effective_at=earlier if is_scheduled else None)

        assert state["scheduled" if is_scheduled else "in_force"]["number"] == 2
        assert state["in_force" if is_scheduled else "scheduled"] is None
        after = await price(services, database, service, datetime.fromisoformat(later))
        assert after.price_version == services[PriceService].price_list.version

    async def test_never_become_active_if_replaced_by_a_later_list(
        self, service: Tenant, services: Services, database: Database
    ) -> None:
        await set_overrides(service, override())
        at = datetime.fromisoformat(in_30_days())
        await set_overrides(service, override(output="1"), effective_at=at.isoformat())

        later = at + timedelta(days=1)
        await set_overrides(service, override(output="2"), effective_at=later.isoformat())

        between = await price(services, database, service, at + timedelta(hours=1))
        assert between.price_version == "override-1"
        assert (await price(services, database, service, later)).price_version == "override-3"

    @pytest.mark.parametrize("back", [timedelta(seconds=1), timedelta(days=400)])
    async def test_cannot_start_in_the_past(self, service: Tenant, back: timedelta) -> None:
        response = await put_overrides(
            service, override(), effective_at=(datetime.now(UTC) - back).isoformat()
        )

        assert (response.status_code, response.json()["code"]) == (422, "effective_at_in_past")
        assert await get_overrides(service) == EMPTY

    @pytest.mark.parametrize(
        ("instant", "code"),
        [
            ("0001-01-01T00:00:00+14:00", "effective_at_in_past"),
            ("9999-12-31T23:59:59-14:00", "validation_failed"),
            ("2030-01-01T00:00:00", "validation_failed"),
            ("tomorrow", "validation_failed"),
        ],
    )
    async def test_reject_invalid_timestamps(self, service: Tenant, instant: str, code: str) -> None:
        response = await put_overrides(service, override(), effective_at=instant)

        assert (response.status_code, response.json()["code"]) == (422, code)


class TestOrder:
    async def test_waits_for_running_ingestion_and_starts_after_it(
        self, service: Tenant, database: Database
    ) -> None:
        """Ingestion holds the ledger lock shared. A list set meanwhile must start after the ingestion."""
        shared = Query(
            sa.text(
                "SELECT pg_advisory_xact_lock_shared(hashtext('byok.usage_mode'),"
                f" hashtext('{service.organization}'))"
            )
        )
        clock = Query(sa.text("SELECT clock_timestamp() AS now"))
        waiting = Query(
            sa.text(
                "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND mode = 'ExclusiveLock'"
            )
        )
        async with database.session(service.organization) as session:
            await session.first(shared)
            setting = asyncio.create_task(set_overrides(service, override()))
            await until(lambda: session.rows(waiting), lambda found: len(found) > 0)
            found = await session.one(clock)

        state = await setting

        assert datetime.fromisoformat(state["in_force"]["effective_from"]) >= found["now"]


class TestPermissions:
    async def test_only_internal_services_may_write(self, tenant: Tenant) -> None:
        response = await put_overrides(tenant, override())

        assert (response.status_code, response.json()["code"]) == (403, "service_only")

    async def test_requires_the_scope(self, tenant: Tenant, make_token: MakeToken) -> None:
        service = Tenant(http=tenant.http, organization=tenant.organization, token=make_token("service"))

        response = await put_overrides(service, override())

        assert (response.status_code, response.json()["code"]) == (403, "insufficient_scope")

    @pytest.mark.parametrize("method", ["GET", "PUT"])
    async def test_other_organizations_get_404(self, tenant: Tenant, method: str) -> None:
        path = f"/v1/organizations/org_{uuid4().hex[:16]}/price-overrides"

        assert (await tenant.request(method, path, json={"overrides": []})).status_code == 404


class TestModelIds:
    @pytest.mark.parametrize(
        "model",
        [
            "claude-opus-4-8[1m]",
            "anthropic/claude-opus-5",
            "openrouter/anthropic/claude-sonnet-5:beta",
            "us.anthropic.claude-opus-5-v1:0",
            "arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/abcd1234",
            "claude-haiku-4-5@20251001",
            "publishers/anthropic/models/claude-opus-5@default",
            "~anthropic/claude-sonnet-latest",
            "*anthropic*claude-opus-5*",
            "a b",
        ],
    )
    async def test_every_spelling_that_events_have_is_accepted_and_priced(
        self, service: Tenant, services: Services, database: Database, model: str
    ) -> None:
        used = "us.anthropic.claude-opus-5-v1:0" if "*" in model else model

        state = await set_overrides(service, override(model))

        priced = await price(services, database, service, datetime.now(UTC), model=used)
        assert state["in_force"]["overrides"][0]["model"] == model
        assert priced.price_version == "override-1"


class TestValidation:
    @pytest.mark.parametrize(
        ("wrong", "code"),
        [
            (override(output="-1"), "invalid_format"),
            (override(output="1e3"), "invalid_format"),
            (override(output="0.0000001"), "invalid_format"),
            (override(output="10000"), "invalid_format"),
            (override(output="NaN"), "invalid_format"),
            (override(output=" 1"), "invalid_format"),
            (override(output="1\n"), "invalid_format"),
            (override(output=None), "invalid_type"),
            (override(output=1.5), "invalid_type"),  # type: ignore[arg-type]  # amounts are strings
            (override(""), "too_short"),
            (override("a\nb"), "text_has_controls"),
            (override("a" * 200), "too_long"),
            (override(make_key()[:99]), "looks_like_key"),
            ({"model": "x"}, "required"),
            (override(thinking="1"), "unknown_field"),
        ],
    )
    async def test_errors_name_the_field_without_its_value(
        self, service: Tenant, wrong: Any, code: str
    ) -> None:
        response = await put_overrides(service, override("fine"), wrong)

        assert response.status_code == 422
        assert [error["code"] for error in response.json()["errors"]] == [code]
        assert await get_overrides(service) == EMPTY

    async def test_rejects_a_repeated_model(self, service: Tenant) -> None:
        response = await put_overrides(service, override(), override())

        assert response.json()["errors"] == [
            {
                "field": "overrides",
                "code": "model_repeated",
                "message": "The list contains a model more than once. Keep one entry per model.",
            }
        ]

    async def test_rejects_a_list_that_is_too_long(self, service: Tenant) -> None:
        assert (await put_overrides(service, *(override(f"m{n}") for n in range(200)))).status_code == 200

        response = await put_overrides(service, *(override(f"m{n}") for n in range(201)))

        assert response.json()["errors"][0]["code"] == "too_long"


class TestStoredPriceOverrides:
    @pytest.mark.parametrize(
        "statement",
        [
            "UPDATE price_override SET output = 0",
            "UPDATE price_override_list SET effective_from = now() - interval '1 day'",
            "DELETE FROM price_override",
            "DELETE FROM price_override_list",
        ],
    )
    async def test_cannot_be_changed_by_the_service_role(
        self, service: Tenant, database: Database, statement: str
    ) -> None:
        await set_overrides(service, override())

        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            async with database.session(service.organization) as session:
                await session.execute(Query(sa.text(statement)))
