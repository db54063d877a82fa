"""Reservations: granted within every limit or by none, released, settled by their events, charged when forgotten."""

from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import httpx
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.core.services import Services
from app.database.engine import Database
from app.database.unit_of_work import UnitsOfWork
from app.spend_limits.reservation_service import ReservationService
from app.usage.records import ModelUsage
from app.usage_mode.modes import UsageMode
from tests.api.rotating import refusal, seen
from tests.api.spending import Spenders, spenders_of, usd_of
from tests.assembly import client_of
from tests.conftest import MakeToken, Tenant
from tests.rows import change
from tests.spend_ledger import ingest, make_row, reserved_by, usd
from tests.unpriced import Unpriced

# Micro-USD a token: the dearest input class is writing to the cache for an hour.
_RATES = {"uncached_input": 3, "cache_write_5m": 4, "cache_write_1h": 6, "cache_read": 1, "output": 15}


class OneModel(Unpriced):
    """A price list of one model."""

    def price(
        self,
        parts: Sequence[ModelUsage],
        *,
        at: datetime,  # noqa: ARG002  # the seam's
        is_compatible_endpoint: bool = False,  # noqa: ARG002  # likewise
    ) -> "OneModel":
        found = OneModel()
        (usage,) = parts
        if usage.model == "claude-sonnet-4-5":
            counts = {name: int(getattr(usage.tokens, name)) for name in _RATES}
            found.cost = sum(counts[name] * rate * 10**6 for name, rate in _RATES.items())
        return found


@pytest.fixture
async def priced(
    services: Services, database: Database, tenant: Tenant, make_token: MakeToken
) -> AsyncIterator[Spenders]:
    own = services.replacing(ReservationService(UnitsOfWork(database), OneModel()))
    async with client_of(own) as http:
        yield spenders_of(tenant, make_token, http)


def exceeded(response: httpx.Response) -> tuple[Any, ...]:
    body = response.json()
    return response.status_code, body["code"], body["limit_id"], body["reason"]


async def let_expire(owner: AsyncEngine, reservation: Any) -> None:
    await change(
        owner,
        "UPDATE spend_reservation SET expires_at = now() - interval '1 second' WHERE id = :id",
        id=reservation["id"],
    )


class TestReserving:
    async def test_puts_the_amount_aside(self, spenders: Spenders) -> None:
        limit = await spenders.set_limit()

        reservation = await spenders.reserved("4", feature="assistant", ttl_seconds=60)

        found = await spenders.limit(limit)
        assert usd_of(reservation["amount"]) == usd_of(found["reserved"]) == "4.00"
        assert usd_of(found["remaining"]) == "6.00"
        assert found["percent_used"] == 40
        assert reservation["state"] == "open"
        assert reservation["usage_mode"] == "managed"
        times = [datetime.fromisoformat(reservation[name]) for name in ("created_at", "expires_at")]
        assert (times[1] - times[0]).total_seconds() == 60

    async def test_may_come_with_all_dimensions_of_its_request(self, spenders: Spenders) -> None:
        await spenders.reserved("4", session_id="s-1", prompt_id="p-1", credential_id=str(uuid4()))

    async def test_takes_the_last_cent_and_no_more(self, spenders: Spenders) -> None:
        limit = await spenders.set_limit()
        await spenders.reserved("10.00")

        assert exceeded(await spenders.reserve("0.000000000001")) == (
            402,
            "spend_limit_exceeded",
            limit["id"],
            "limit_reached",
        )

    async def test_names_the_limit_that_has_no_room(self, spenders: Spenders) -> None:
        await spenders.set_limit(name="Roomy", amount={"amount": "100", "currency": "USD"})
        tight = await spenders.set_limit(name="Tight", amount={"amount": "1", "currency": "USD"})

        response = await spenders.reserve("2")

        assert exceeded(response) == (402, "spend_limit_exceeded", tight["id"], "limit_reached")
        assert response.json()["limit_name"] == "Tight"

    async def test_that_is_refused_holds_nothing_anywhere(self, spenders: Spenders) -> None:
        roomy = await spenders.set_limit(amount={"amount": "100", "currency": "USD"})
        await spenders.set_limit(amount={"amount": "1", "currency": "USD"})

        await spenders.reserve("2")

        assert usd_of((await spenders.limit(roomy))["reserved"]) == "0.00"

    async def test_is_held_by_a_limit_that_only_tells_whatever_it_is(self, spenders: Spenders) -> None:
        limit = await spenders.set_limit(enforcement="notify")

        await spenders.reserved("12")

        found = await spenders.limit(limit)
        assert (usd_of(found["reserved"]), usd_of(found["remaining"])) == ("12.00", "0.00")

    async def test_is_held_where_its_scope_is_and_nowhere_else(self, spenders: Spenders) -> None:
        matching = await spenders.set_limit(scope={"feature": "assistant", "model": "claude-haiku-4-5"})
        others = [
            await spenders.set_limit(scope=scope)
            for scope in ({"feature": "search"}, {"endpoint_id": "ep_1"}, {"usage_mode": "byo"})
        ]

        await spenders.reserved("2", feature="assistant", model="claude-haiku-4-5")

        assert usd_of((await spenders.limit(matching))["reserved"]) == "2.00"
        for other in others:
            assert usd_of((await spenders.limit(other))["reserved"]) == "0.00"

    async def test_takes_the_mode_in_force(self, spenders: Spenders) -> None:
        managed = await spenders.set_limit()
        byo = await spenders.set_limit(scope={"usage_mode": "byo"})
        await spenders.switch("byo")

        reservation = await spenders.reserved("2")

        assert reservation["usage_mode"] == "byo"
        assert usd_of((await spenders.limit(managed))["reserved"]) == "0.00"
        assert usd_of((await spenders.limit(byo))["reserved"]) == "2.00"

    async def test_without_any_limit_is_granted(self, spenders: Spenders) -> None:
        assert (await spenders.reserve("1000")).status_code == 201

    async def test_is_counted_by_a_limit_that_is_set_later(self, spenders: Spenders) -> None:
        reservation = await spenders.reserved("3")
        limit = await spenders.set_limit()
        before = usd_of(limit["reserved"])

        await spenders.release(reservation)

        assert before == "3.00"
        assert usd_of((await spenders.limit(limit))["reserved"]) == "0.00"

    async def test_moves_with_the_scope_of_a_limit(self, spenders: Spenders) -> None:
        limit = await spenders.set_limit(scope={"feature": "assistant"})
        reservation = await spenders.reserved("3", feature="search")

        changed = (await spenders.change(limit, scope={"feature": "search"})).json()
        await spenders.release(reservation)

        assert usd_of(changed["reserved"]) == "3.00"
        assert usd_of((await spenders.limit(limit))["reserved"]) == "0.00"

    async def test_once_under_an_idempotency_key(self, spenders: Spenders) -> None:
        limit = await spenders.set_limit()
        first, again = [await spenders.reserve("3", headers={"Idempotency-Key": "once"}) for _ in range(2)]

        assert first.json() == again.json()
        assert again.headers["Idempotency-Replayed"] == "true"
        assert usd_of((await spenders.limit(limit))["reserved"]) == "3.00"

    async def test_that_is_refused_leaves_its_idempotency_key_free(self, spenders: Spenders) -> None:
        limit = await spenders.set_limit(amount={"amount": "1", "currency": "USD"})
        refused = await spenders.reserve("3", headers={"Idempotency-Key": "once"})
        await spenders.change(limit, amount={"amount": "5"})

        again = await spenders.reserve("3", headers={"Idempotency-Key": "once"})

        assert (refused.status_code, again.status_code) == (402, 201)


class TestEstimate:
    async def test_takes_all_input_in_the_dearest_class_and_all_output(self, priced: Spenders) -> None:
        reservation = await priced.reserved(
            model="claude-sonnet-4-5", input_tokens=1_000_000, max_output_tokens=100_000
        )

        assert usd_of(reservation["amount"]) == "7.50"

    async def test_without_a_price_is_refused_by_a_limit_that_blocks(self, priced: Spenders) -> None:
        limit = await priced.set_limit()

        response = await priced.reserve(model="unknown-1", input_tokens=1, max_output_tokens=1)

        assert exceeded(response) == (402, "spend_limit_exceeded", limit["id"], "price_unknown")

    async def test_without_a_price_is_nothing_where_no_limit_blocks(self, priced: Spenders) -> None:
        await priced.set_limit(enforcement="notify")
        await priced.set_limit(scope={"feature": "other"})

        reservation = await priced.reserved(model="unknown-1", input_tokens=1, max_output_tokens=1)

        assert reservation["amount"] is None
        assert (await priced.release(reservation)).json()["state"] == "released"


class TestRequest:
    @pytest.mark.parametrize(
        ("body", "field", "code"),
        [
            ({}, "model", "required"),
            ({"model": "claude-sonnet-4-5"}, "input_tokens", "required"),
            ({"model": "claude-sonnet-4-5", "input_tokens": 1}, "max_output_tokens", "required"),
            (
                {"amount": {"amount": "1", "currency": "USD"}, "input_tokens": 1},
                "amount",
                "amount_and_tokens",
            ),
            ({"amount": {"amount": "1", "currency": "USD"}, "ttl_seconds": 0}, "ttl_seconds", "too_small"),
            (
                {"amount": {"amount": "1", "currency": "USD"}, "ttl_seconds": "60"},
                "ttl_seconds",
                "invalid_type",
            ),
            (
                {"amount": {"amount": "1", "currency": "USD"}, "ttl_seconds": 86401},
                "ttl_seconds",
                "too_large",
            ),
            (
                {"amount": {"amount": "1", "currency": "USD"}, "usage_mode": "byo"},
                "usage_mode",
                "unknown_field",
            ),
        ],
    )
    async def test_refuses(self, spenders: Spenders, body: Any, field: str, code: str) -> None:
        response = await spenders.service.post(spenders.reservations, json=body)

        assert response.status_code == 422
        assert (response.json()["errors"][0]["field"], response.json()["errors"][0]["code"]) == (field, code)
        # What is missing or of the wrong form has one code, wherever it is found.
        assert response.json()["code"] == (
            code if code in {"amount_and_tokens", "unknown_field"} else "validation_failed"
        )

    async def test_is_for_services_alone(self, spenders: Spenders) -> None:
        body = {"amount": {"amount": "1", "currency": "USD"}}

        assert refusal(await spenders.admin.post(spenders.reservations, json=body)) == (403, "service_only")
        path = f"{spenders.reservations}/{uuid4()}"
        assert refusal(await spenders.admin.request("DELETE", path)) == (403, "insufficient_scope")


class TestReleasing:
    async def test_gives_it_back_once(self, spenders: Spenders) -> None:
        limit = await spenders.set_limit()
        reservation = await spenders.reserved("4")

        first, again = [await spenders.release(reservation) for _ in range(2)]

        assert (first.status_code, again.status_code) == (200, 200)
        assert first.json() == again.json() == reservation | {"state": "released"}
        assert usd_of((await spenders.limit(limit))["reserved"]) == "0.00"

    async def test_of_what_is_not_there_finds_nothing(self, spenders: Spenders) -> None:
        assert refusal(await spenders.release({"id": str(uuid4())})) == (404, "not_found")

    async def test_of_another_organizations_finds_nothing(self, spenders: Spenders) -> None:
        reservation = await spenders.reserved("4")
        stranger = f"/v1/organizations/org_{uuid4().hex[:16]}/spend-reservations/{reservation['id']}"

        response = await spenders.service.request("DELETE", stranger)

        assert refusal(response) == (404, "not_found")

    async def test_after_its_time_is_too_late(self, spenders: Spenders, owner: AsyncEngine) -> None:
        limit = await spenders.set_limit()
        reservation = await spenders.reserved("4")
        await let_expire(owner, reservation)

        assert refusal(await spenders.release(reservation)) == (409, "reservation_ended")
        assert usd_of((await spenders.limit(limit))["reserved"]) == "4.00"


class TestSettling:
    async def test_puts_what_it_cost_in_place_of_the_estimate(
        self, spenders: Spenders, database: Database
    ) -> None:
        limit = await spenders.set_limit()
        reservation = await spenders.reserved("4")

        await ingest(database, spenders.admin.organization, reserved_by(reservation["id"], usd("1.5")))

        found = await spenders.limit(limit)
        assert (usd_of(found["spent"]), usd_of(found["reserved"])) == ("1.50", "0.00")
        assert refusal(await spenders.release(reservation)) == (409, "reservation_ended")

    async def test_of_one_that_expired_still_comes(
        self, spenders: Spenders, database: Database, owner: AsyncEngine
    ) -> None:
        limit = await spenders.set_limit()
        reservation = await spenders.reserved("10")
        await let_expire(owner, reservation)
        charged = await spenders.reserve("1")

        await ingest(database, spenders.admin.organization, reserved_by(reservation["id"], usd(2)))

        assert charged.status_code == 402
        assert usd_of((await spenders.limit(limit))["remaining"]) == "8.00"

    async def test_ends_it_in_limits_that_do_not_count_the_event(
        self, spenders: Spenders, database: Database
    ) -> None:
        """The event says another feature than was said before: each counts where it belongs."""
        said = await spenders.set_limit(scope={"feature": "assistant"})
        done = await spenders.set_limit(scope={"feature": "search"})
        reservation = await spenders.reserved("4", feature="assistant")

        event = reserved_by(reservation["id"], usd(1), feature="search")
        await ingest(database, spenders.admin.organization, event)

        assert usd_of((await spenders.limit(said))["remaining"]) == "10.00"
        assert usd_of((await spenders.limit(done))["spent"]) == "1.00"

    async def test_twice_in_a_batch_and_again_ends_it_once(
        self, spenders: Spenders, database: Database
    ) -> None:
        limit = await spenders.set_limit()
        await spenders.reserved("2")
        reservation = await spenders.reserved("4")

        organization = spenders.admin.organization
        twice = [reserved_by(reservation["id"], usd(1)) for _ in range(2)]
        await ingest(database, organization, *twice)
        await ingest(database, organization, reserved_by(reservation["id"], usd(1)))

        found = await spenders.limit(limit)
        assert (usd_of(found["spent"]), usd_of(found["reserved"])) == ("3.00", "2.00")

    async def test_by_an_event_that_names_none_there_is_counts_the_event(
        self, spenders: Spenders, database: Database
    ) -> None:
        limit = await spenders.set_limit()

        await ingest(database, spenders.admin.organization, reserved_by(str(uuid4()), usd(1)))

        assert usd_of((await spenders.limit(limit))["spent"]) == "1.00"

    async def test_of_one_that_was_released_counts_the_event(
        self, spenders: Spenders, database: Database
    ) -> None:
        limit = await spenders.set_limit()
        reservation = await spenders.reserved("4")
        await spenders.release(reservation)

        await ingest(database, spenders.admin.organization, reserved_by(reservation["id"], usd(1)))

        found = await spenders.limit(limit)
        assert (usd_of(found["spent"]), usd_of(found["reserved"])) == ("1.00", "0.00")

    async def test_without_a_limit_ends_it_all_the_same(self, spenders: Spenders, database: Database) -> None:
        reservation = await spenders.reserved("4")
        await ingest(database, spenders.admin.organization, reserved_by(reservation["id"], usd(1)))

        limit = await spenders.set_limit()

        assert (usd_of(limit["spent"]), usd_of(limit["reserved"])) == ("1.00", "0.00")

    async def test_beyond_the_estimate_shows_as_overrun(self, spenders: Spenders, database: Database) -> None:
        limit = await spenders.set_limit()
        reservation = await spenders.reserved("10")

        await ingest(database, spenders.admin.organization, reserved_by(reservation["id"], usd("10.25")))

        assert usd_of((await spenders.limit(limit))["overrun"]) == "0.25"


class TestReadiness:
    async def blockers(self, spenders: Spenders) -> list[str]:
        found: list[str] = (await seen(spenders.admin, f"{spenders.admin.path}/readiness"))["blockers"]
        return found

    async def test_says_when_nothing_remains(self, spenders: Spenders) -> None:
        await spenders.set_limit()
        before = await self.blockers(spenders)
        await spenders.reserved("10")

        after = await seen(spenders.admin, f"{spenders.admin.path}/readiness")

        assert before == []
        assert after == {
            "ready": False,
            "mode": "managed",
            "credential_id": None,
            "blockers": ["spend_limit_reached"],
        }

    @pytest.mark.parametrize(
        "fields",
        [
            {"enforcement": "notify"},
            {"scope": {"model": "claude-sonnet-4-5"}},
            {"scope": {"feature": "assistant"}},
            {"scope": {"endpoint_id": "ep_1"}},
            {"scope": {"usage_mode": "byo"}},
        ],
    )
    async def test_is_not_told_by_a_limit_on_something_else(
        self, spenders: Spenders, database: Database, fields: Any
    ) -> None:
        await spenders.set_limit(**fields)
        event = make_row(usd(20), model="claude-sonnet-4-5", feature="assistant", endpoint_id="ep_1")
        byo = make_row(usd(20), mode=UsageMode.BYO)

        await ingest(database, spenders.admin.organization, event, byo)

        assert await self.blockers(spenders) == []

    async def test_is_of_the_mode_in_force(self, spenders: Spenders, database: Database) -> None:
        await spenders.set_limit(scope={"usage_mode": "any"}, period="total")
        await ingest(database, spenders.admin.organization, make_row(usd(10)))
        managed = await self.blockers(spenders)
        await spenders.switch("byo")

        byo = await self.blockers(spenders)

        assert managed == ["spend_limit_reached"]
        assert byo == ["credential_missing", "spend_limit_reached"]

    async def test_is_of_the_period_at_hand(self, spenders: Spenders, database: Database) -> None:
        await spenders.set_limit(period="day")
        yesterday = datetime.now(UTC) - timedelta(days=1)

        await ingest(database, spenders.admin.organization, make_row(usd(20), started_at=yesterday))

        assert await self.blockers(spenders) == []

    async def test_of_an_amount_of_nothing_is_never(self, spenders: Spenders) -> None:
        limit = await spenders.set_limit(amount={"amount": "0", "currency": "USD"})

        assert await self.blockers(spenders) == ["spend_limit_reached"]
        assert limit["percent_used"] is None
        assert limit["crossings"] == []
