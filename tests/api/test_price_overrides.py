"""An organization's own prices: set by internal services, from now on or later, kept for good."""

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
from app.database.engine import Database, Query
from app.database.unit_of_work import UnitsOfWork
from app.pricing.prices import Priced
from app.pricing.service import PriceService
from app.usage.records import ModelUsage, TokenUsage
from tests.conftest import MakeToken, Tenant
from tests.fake_anthropic import make_key
from tests.waiting import until

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
    """An internal service that may write what concerns billing, on the tenant's paths."""
    token = make_token("service", scopes=[*ROLES["service"], Scope.BILLING_WRITE])
    return Tenant(http=tenant.http, organization=tenant.organization, token=token)


async def put(caller: Tenant, *overrides: Any, if_match: str | None = None, **fields: Any) -> httpx.Response:
    return await caller.request(
        "PUT",
        f"{caller.path}/price-overrides",
        json={"overrides": overrides, **fields},
        headers={} if if_match is None else {"If-Match": if_match},
    )


async def set_to(caller: Tenant, *overrides: Any, **fields: Any) -> dict[str, Any]:
    response = await put(caller, *overrides, **fields)
    assert response.status_code == 200, response.text
    state: dict[str, Any] = response.json()
    return state


async def state_of(caller: Tenant) -> dict[str, Any]:
    response = await caller.get(f"{caller.path}/price-overrides")
    assert response.status_code == 200, response.text
    state: dict[str, Any] = response.json()
    return state


async def priced(
    services: Services,
    database: Database,
    tenant: Tenant,
    at: datetime,
    model: str = "claude-opus-5-5",
    **how: Any,
) -> Priced:
    """As ingestion asks: in a unit of work of its own."""
    async with UnitsOfWork(database).reading(tenant.organization) as uow:
        prices = await services[PriceService].of(uow)
    return prices.price([ModelUsage(model=model, tokens=TOKENS)], at=at, **how)


def soon() -> str:
    return (datetime.now(UTC) + timedelta(days=30)).isoformat()


class TestNewOrganization:
    async def test_has_none(self, tenant: Tenant) -> None:
        assert await state_of(tenant) == EMPTY


class TestSet:
    async def test_counts_from_now_on(self, service: Tenant, tenant: Tenant) -> None:
        before = datetime.now(UTC)

        state = await set_to(service, override(cache_read="0.18"), override("deepseek-*"))

        assert state == await state_of(tenant)
        assert state["scheduled"] is None
        in_force = state["in_force"]
        assert (in_force["number"], in_force["set_by"]) == (1, "service@example.com")
        assert before - timedelta(minutes=1) < datetime.fromisoformat(in_force["effective_from"])
        assert in_force["effective_from"] == in_force["set_at"]
        assert in_force["overrides"] == [
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

    async def test_changes_what_usage_costs_from_its_instant_and_not_before(
        self, service: Tenant, services: Services, database: Database
    ) -> None:
        at = datetime.fromisoformat((await set_to(service, override()))["in_force"]["effective_from"])

        after = await priced(services, database, service, at)
        before = await priced(services, database, service, at - timedelta(microseconds=1))

        assert (after.cost, after.price_version) == (21_600_000_000_000, "override-1")
        assert (before.cost, before.price_version) == (
            24_000_000_000_000,
            services[PriceService].listed.version,
        )

    async def test_is_the_only_price_at_a_compatible_endpoint(
        self, service: Tenant, services: Services, database: Database
    ) -> None:
        await set_to(service, override("deepseek-*", uncached_input="0.000001", output="0"))
        at = datetime.now(UTC) + timedelta(minutes=1)

        own = await priced(services, database, service, at, "deepseek-chat", is_compatible_endpoint=True)
        listed = await priced(services, database, service, at, is_compatible_endpoint=True)

        assert (own.cost, listed.cost) == (1_000_000, None)

    async def test_empty_gives_the_list_prices_back(
        self, service: Tenant, services: Services, database: Database
    ) -> None:
        first = datetime.fromisoformat((await set_to(service, override()))["in_force"]["effective_from"])
        state = await set_to(service)

        assert (state["in_force"]["number"], state["in_force"]["overrides"]) == (2, [])
        at = datetime.fromisoformat(state["in_force"]["effective_from"])
        assert (await priced(services, database, service, at)).price_version == services[
            PriceService
        ].listed.version
        assert (await priced(services, database, service, first)).price_version == "override-1"

    async def test_to_what_it_is_already_changes_nothing(self, service: Tenant) -> None:
        first = await set_to(service, override(), override("x"))

        assert await set_to(service, override("x"), override()) == first

    async def test_is_in_the_trail(self, service: Tenant, tenant: Tenant) -> None:
        await set_to(service, override(), override("x"))

        events = (await tenant.get(f"{tenant.path}/audit-events")).json()["data"]

        assert [event["action"] for event in events] == ["prices.overridden"]
        assert events[0]["actor"] == "service@example.com"
        assert (events[0]["details"]["number"], events[0]["details"]["models"]) == (1, 2)

    async def test_heeds_if_match(self, service: Tenant) -> None:
        first = await put(service, override())
        await put(service, override("x"))

        refused = await put(service, override("y"), if_match=first.headers["ETag"])

        assert (refused.status_code, refused.json()["code"]) == (412, "precondition_failed")
        read = await service.get(f"{service.path}/price-overrides")
        assert (await put(service, override("y"), if_match=read.headers["ETag"])).status_code == 200

    async def test_many_at_once_counts_them_all_one_after_the_other(self, service: Tenant) -> None:
        states = await asyncio.gather(*(set_to(service, override(f"model-{n}")) for n in range(8)))

        numbered = sorted((state["in_force"] for state in states), key=lambda one: one["number"])
        assert [one["number"] for one in numbered] == list(range(1, 9))
        instants = [one["effective_from"] for one in numbered]
        assert instants == sorted(set(instants))


class TestSchedule:
    async def test_counts_from_its_instant(
        self, service: Tenant, services: Services, database: Database
    ) -> None:
        await set_to(service, override())
        later = soon()

        state = await set_to(service, override(output="1"), effective_at=later)

        assert (state["in_force"]["number"], state["scheduled"]["number"]) == (1, 2)
        assert state == await state_of(service)
        at = datetime.fromisoformat(later)
        assert (await priced(services, database, service, at)).price_version == "override-2"
        just_before = await priced(services, database, service, at - timedelta(microseconds=1))
        assert just_before.price_version == "override-1"

    @pytest.mark.parametrize("is_scheduled", [False, True])
    async def test_is_replaced_by_whatever_is_set_after_it(
        self, service: Tenant, services: Services, database: Database, is_scheduled: bool
    ) -> None:
        later = soon()
        await set_to(service, override(), effective_at=later)
        earlier = (datetime.fromisoformat(later) - timedelta(days=1)).isoformat()

        state = await set_to(service, override("x"), effective_at=earlier if is_scheduled else None)

        assert state["scheduled" if is_scheduled else "in_force"]["number"] == 2
        assert state["in_force" if is_scheduled else "scheduled"] is None
        after = await priced(services, database, service, datetime.fromisoformat(later))
        assert after.price_version == services[PriceService].listed.version

    async def test_that_is_replaced_by_a_later_one_never_counts(
        self, service: Tenant, services: Services, database: Database
    ) -> None:
        await set_to(service, override())
        at = datetime.fromisoformat(soon())
        await set_to(service, override(output="1"), effective_at=at.isoformat())

        later = at + timedelta(days=1)
        await set_to(service, override(output="2"), effective_at=later.isoformat())

        between = await priced(services, database, service, at + timedelta(hours=1))
        assert between.price_version == "override-1"
        assert (await priced(services, database, service, later)).price_version == "override-3"

    @pytest.mark.parametrize("back", [timedelta(seconds=1), timedelta(days=400)])
    async def test_never_for_the_past(self, service: Tenant, back: timedelta) -> None:
        refused = await put(service, override(), effective_at=(datetime.now(UTC) - back).isoformat())

        assert (refused.status_code, refused.json()["code"]) == (422, "effective_at_in_past")
        assert await state_of(service) == EMPTY

    @pytest.mark.parametrize(
        ("instant", "code"),
        [
            ("0001-01-01T00:00:00+14:00", "effective_at_in_past"),
            ("9999-12-31T23:59:59-14:00", "validation_failed"),
            ("2030-01-01T00:00:00", "validation_failed"),
            ("tomorrow", "validation_failed"),
        ],
    )
    async def test_needs_an_instant_that_there_is(self, service: Tenant, instant: str, code: str) -> None:
        refused = await put(service, override(), effective_at=instant)

        assert (refused.status_code, refused.json()["code"]) == (422, code)


class TestOrder:
    async def test_waits_for_ingestion_that_is_under_way_and_counts_after_it(
        self, service: Tenant, database: Database
    ) -> None:
        """Ingestion holds the lock shared; a price set meanwhile must count from after it."""
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
            setting = asyncio.create_task(set_to(service, override()))
            await until(lambda: session.rows(waiting), lambda found: len(found) > 0)
            found = await session.first(clock)
        assert found is not None

        state = await setting

        assert datetime.fromisoformat(state["in_force"]["effective_from"]) >= found["now"]


class TestCaller:
    async def test_needs_to_be_an_internal_service_to_write(self, tenant: Tenant) -> None:
        refused = await put(tenant, override())

        assert (refused.status_code, refused.json()["code"]) == (403, "service_only")

    async def test_needs_the_scope_besides(self, tenant: Tenant, make_token: MakeToken) -> None:
        service = Tenant(http=tenant.http, organization=tenant.organization, token=make_token("service"))

        refused = await put(service, override())

        assert (refused.status_code, refused.json()["code"]) == (403, "insufficient_scope")

    @pytest.mark.parametrize("method", ["GET", "PUT"])
    async def test_of_another_organization_finds_nothing(self, tenant: Tenant, method: str) -> None:
        path = f"/v1/organizations/org_{uuid4().hex[:16]}/price-overrides"

        assert (await tenant.request(method, path, json={"overrides": []})).status_code == 404


class TestRefusal:
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
            (override(output=1.5), "invalid_type"),  # type: ignore[arg-type]  # money is text
            (override(""), "invalid_format"),
            (override("a*b"), "invalid_format"),
            (override("**"), "invalid_format"),
            (override("a b"), "invalid_format"),
            (override("a" * 200), "invalid_format"),
            (override(make_key()[:99]), "looks_like_key"),
            ({"model": "x"}, "required"),
            (override(thinking="1"), "unknown_field"),
        ],
    )
    async def test_names_the_field_and_not_what_was_in_it(
        self, service: Tenant, wrong: Any, code: str
    ) -> None:
        refused = await put(service, override("fine"), wrong)

        assert refused.status_code == 422
        assert [error["code"] for error in refused.json()["errors"]] == [code]
        assert await state_of(service) == EMPTY

    async def test_of_a_model_that_stands_twice(self, service: Tenant) -> None:
        refused = await put(service, override(), override())

        assert refused.json()["errors"] == [
            {
                "field": "overrides",
                "code": "model_repeated",
                "message": "A model stands in the list more than once.",
            }
        ]

    async def test_of_a_list_that_is_too_long(self, service: Tenant) -> None:
        assert (await put(service, *(override(f"m{n}") for n in range(200)))).status_code == 200

        refused = await put(service, *(override(f"m{n}") for n in range(201)))

        assert refused.json()["errors"][0]["code"] == "too_long"


class TestHistory:
    @pytest.mark.parametrize(
        "statement",
        [
            "UPDATE price_override SET output = 0",
            "UPDATE price_override_list SET effective_from = now() - interval '1 day'",
            "DELETE FROM price_override",
            "DELETE FROM price_override_list",
        ],
    )
    async def test_cannot_be_changed_by_the_service(
        self, service: Tenant, database: Database, statement: str
    ) -> None:
        await set_to(service, override())

        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            async with database.session(service.organization) as session:
                await session.execute(Query(sa.text(statement)))
