"""Reservations: create within every limit or not at all, release, settle by usage events, and expire."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from urllib.parse import urlencode
from uuid import uuid4

import httpx
import pytest
from msgspec.structs import replace
from sqlalchemy.ext.asyncio import AsyncEngine

from app.core.services import Services
from app.database.engine import Database
from app.database.ledger_lock import LedgerLock
from app.database.unit_of_work import UnitsOfWork
from app.spend_limits.reservation_service import ReservationService
from app.usage_events.records import ModelUsage, TokenUsage
from app.usage_mode.modes import UsageMode
from tests.support.database.rows import change, fetch
from tests.support.database.spending_ledger import ingest, make_row, row_of_reservation, usd
from tests.support.polling import until
from tests.support.requests.rotation import get_json, status_and_code
from tests.support.requests.spend_limits import SpendClients, spend_clients_of, usd_of
from tests.support.service_builder import client_of
from tests.support.tenant import MakeToken, Tenant
from tests.support.usage.unpriced_ingestion import NoPrices

# Micro-USD per token. The most expensive input class is a cache write for one hour.
_RATES = {"uncached_input": 3, "cache_write_5m": 4, "cache_write_1h": 6, "cache_read": 1, "output": 15}


class PriceListOfOneModel(NoPrices):
    """Knows the prices of one model."""

    def price(
        self,
        parts: Sequence[ModelUsage],
        *,
        at: datetime,  # noqa: ARG002  # part of the interface
        is_compatible_endpoint: bool = False,  # noqa: ARG002  # part of the interface
    ) -> "PriceListOfOneModel":
        found = PriceListOfOneModel()
        (usage,) = parts
        if usage.model == "claude-sonnet-4-5":
            counts = {name: int(getattr(usage.tokens, name)) for name in _RATES}
            found.cost = sum(counts[name] * rate * 10**6 for name, rate in _RATES.items())
        return found


@pytest.fixture
async def clients_with_prices(
    services: Services, database: Database, tenant: Tenant, make_token: MakeToken
) -> AsyncIterator[SpendClients]:
    services_with_prices = services.replacing(
        ReservationService(UnitsOfWork(database), PriceListOfOneModel())
    )
    async with client_of(services_with_prices) as http:
        yield spend_clients_of(tenant, make_token, http)


def error_of(response: httpx.Response) -> tuple[Any, ...]:
    body = response.json()
    return response.status_code, body["code"], body["limit_id"], body["reason"]


async def expire(superuser: AsyncEngine, reservation: Any) -> None:
    await change(
        superuser,
        "UPDATE spend_reservation SET expires_at = now() - interval '1 second' WHERE id = :id",
        id=reservation["id"],
    )


class TestCreate:
    async def test_reserves_the_amount(self, clients: SpendClients) -> None:
        limit = await clients.create_limit()

        reservation = await clients.create_reservation("4", feature="assistant", ttl_seconds=60)

        found = await clients.get_limit(limit)
        assert usd_of(reservation["amount"]) == usd_of(found["reserved"]) == "4.00"
        assert usd_of(found["remaining"]) == "6.00"
        assert found["percent_used"] == 40
        assert reservation["state"] == "open"
        assert reservation["usage_mode"] == "managed"
        times = [datetime.fromisoformat(reservation[name]) for name in ("created_at", "expires_at")]
        assert (times[1] - times[0]).total_seconds() == 60

    async def test_accepts_all_dimensions_of_a_request(self, clients: SpendClients) -> None:
        await clients.create_reservation("4", session_id="s-1", prompt_id="p-1", credential_id=str(uuid4()))

    async def test_decides_about_concurrent_requests_one_by_one(self, clients: SpendClients) -> None:
        """Requests that arrive together share a transaction. Each is granted or rejected on its own."""
        limit = await clients.create_limit()
        other = await clients.create_limit(
            scope={"feature": "other"}, amount={"amount": "1", "currency": "USD"}
        )
        wanted = [("4", "a"), ("9", "other"), ("3", "a"), ("2", "b"), ("4", "b"), ("1", "other")] * 3

        responses = await asyncio.gather(
            *(clients.request_reservation(amount, feature=feature) for amount, feature in wanted)
        )

        granted = [response.json() for response in responses if response.status_code == 201]
        assert {response.status_code for response in responses} == {201, 402}
        for state, counts in (
            (await clients.get_limit(limit), "ab other"),
            (await clients.get_limit(other), "other"),
        ):
            reserved = sum(Decimal(one["amount"]["amount"]) for one in granted if one["feature"] in counts)
            assert Decimal(usd_of(state["reserved"])) == reserved <= Decimal(usd_of(state["amount"]))

    async def test_grants_nothing_when_a_limit_is_used_up(self, clients: SpendClients) -> None:
        """Not even an amount of 0: readiness says the same."""
        limit = await clients.create_limit()
        await clients.create_reservation("10.00")

        assert error_of(await clients.request_reservation("0")) == (
            402,
            "spend_limit_exceeded",
            limit["id"],
            "limit_reached",
        )

    async def test_rejects_more_than_the_amount_of_the_limit(self, clients: SpendClients) -> None:
        limit = await clients.create_limit()
        await clients.create_reservation("10.00")

        assert error_of(await clients.request_reservation("0.000000000001")) == (
            402,
            "spend_limit_exceeded",
            limit["id"],
            "limit_reached",
        )

    async def test_names_the_exceeded_limit(self, clients: SpendClients) -> None:
        await clients.create_limit(name="Roomy", amount={"amount": "100", "currency": "USD"})
        small = await clients.create_limit(name="Tight", amount={"amount": "1", "currency": "USD"})

        response = await clients.request_reservation("2")

        assert error_of(response) == (402, "spend_limit_exceeded", small["id"], "limit_reached")
        assert response.json()["limit_name"] == "Tight"

    async def test_reserves_nothing_if_one_limit_is_exceeded(self, clients: SpendClients) -> None:
        large = await clients.create_limit(amount={"amount": "100", "currency": "USD"})
        await clients.create_limit(amount={"amount": "1", "currency": "USD"})

        await clients.request_reservation("2")

        assert usd_of((await clients.get_limit(large))["reserved"]) == "0.00"

    async def test_may_exceed_a_notify_limit(self, clients: SpendClients) -> None:
        limit = await clients.create_limit(enforcement="notify")

        await clients.create_reservation("12")

        found = await clients.get_limit(limit)
        assert (usd_of(found["reserved"]), usd_of(found["remaining"])) == ("12.00", "0.00")

    async def test_counts_only_in_matching_limits(self, clients: SpendClients) -> None:
        matching = await clients.create_limit(scope={"feature": "assistant", "model": "claude-haiku-4-5"})
        others = [
            await clients.create_limit(scope=scope)
            for scope in ({"feature": "search"}, {"endpoint_id": "ep_1"}, {"usage_mode": "byo"})
        ]

        await clients.create_reservation("2", feature="assistant", model="claude-haiku-4-5")

        assert usd_of((await clients.get_limit(matching))["reserved"]) == "2.00"
        for other in others:
            assert usd_of((await clients.get_limit(other))["reserved"]) == "0.00"

    async def test_uses_the_active_mode(self, clients: SpendClients) -> None:
        managed = await clients.create_limit()
        byo = await clients.create_limit(scope={"usage_mode": "byo"})
        await clients.switch_mode("byo")

        reservation = await clients.create_reservation("2")

        assert reservation["usage_mode"] == "byo"
        assert usd_of((await clients.get_limit(managed))["reserved"]) == "0.00"
        assert usd_of((await clients.get_limit(byo))["reserved"]) == "2.00"

    async def test_is_granted_without_limits(self, clients: SpendClients) -> None:
        assert (await clients.request_reservation("1000")).status_code == 201

    async def test_counts_in_limits_created_later(self, clients: SpendClients) -> None:
        reservation = await clients.create_reservation("3")
        limit = await clients.create_limit()
        before = usd_of(limit["reserved"])

        await clients.release(reservation)

        assert before == "3.00"
        assert usd_of((await clients.get_limit(limit))["reserved"]) == "0.00"

    async def test_follows_the_scope_of_a_limit(self, clients: SpendClients) -> None:
        limit = await clients.create_limit(scope={"feature": "assistant"})
        reservation = await clients.create_reservation("3", feature="search")

        changed = (await clients.update_limit(limit, scope={"feature": "search"})).json()
        await clients.release(reservation)

        assert usd_of(changed["reserved"]) == "3.00"
        assert usd_of((await clients.get_limit(limit))["reserved"]) == "0.00"

    async def test_replays_the_response_for_an_idempotency_key(self, clients: SpendClients) -> None:
        limit = await clients.create_limit()
        first, again = [
            await clients.request_reservation("3", headers={"Idempotency-Key": "once"}) for _ in range(2)
        ]

        assert first.json() == again.json()
        assert again.headers["Idempotency-Replayed"] == "true"
        assert usd_of((await clients.get_limit(limit))["reserved"]) == "3.00"

    async def test_repeated_after_the_client_gave_up_returns_the_first_reservation(
        self, clients: SpendClients, database: Database, superuser: AsyncEngine
    ) -> None:
        """The first attempt runs on: its transaction serves other requests too."""
        limit = await clients.create_limit()
        headers = {"Idempotency-Key": "abandoned"}
        async with UnitsOfWork(database).writing(clients.admin.organization) as uow:
            await uow[LedgerLock].lock_exclusively()
            first = asyncio.create_task(clients.request_reservation("3", headers=headers))
            await until(lambda: fetch(superuser, "SELECT pid FROM pg_locks WHERE NOT granted"), bool)
            first.cancel()
            with suppress(asyncio.CancelledError):
                await first
            again = asyncio.create_task(clients.request_reservation("3", headers=headers))
            await until(
                lambda: fetch(
                    superuser,
                    "SELECT organization_id FROM idempotency_key WHERE organization_id = :organization"
                    " AND held_until > now()",
                    organization=clients.admin.organization,
                ),
                bool,
            )

        response = await again
        assert response.status_code == 201
        assert usd_of((await clients.get_limit(limit))["reserved"]) == "3.00"

    async def test_rejected_does_not_use_up_the_idempotency_key(self, clients: SpendClients) -> None:
        limit = await clients.create_limit(amount={"amount": "1", "currency": "USD"})
        rejected = await clients.request_reservation("3", headers={"Idempotency-Key": "once"})
        await clients.update_limit(limit, amount={"amount": "5"})

        again = await clients.request_reservation("3", headers={"Idempotency-Key": "once"})

        assert (rejected.status_code, again.status_code) == (402, 201)


class TestEstimate:
    async def test_assumes_the_most_expensive_class_and_all_output(
        self, clients_with_prices: SpendClients
    ) -> None:
        reservation = await clients_with_prices.create_reservation(
            model="claude-sonnet-4-5", input_tokens=1_000_000, max_output_tokens=100_000
        )

        assert usd_of(reservation["amount"]) == "7.50"

    async def test_without_a_price_is_rejected_by_a_blocking_limit(
        self, clients_with_prices: SpendClients
    ) -> None:
        limit = await clients_with_prices.create_limit()

        response = await clients_with_prices.request_reservation(
            model="unknown-1", input_tokens=1, max_output_tokens=1
        )

        assert error_of(response) == (402, "spend_limit_exceeded", limit["id"], "price_unknown")

    async def test_without_a_price_is_null_if_no_limit_blocks(
        self, clients_with_prices: SpendClients
    ) -> None:
        await clients_with_prices.create_limit(enforcement="notify")
        await clients_with_prices.create_limit(scope={"feature": "other"})

        reservation = await clients_with_prices.create_reservation(
            model="unknown-1", input_tokens=1, max_output_tokens=1
        )

        assert reservation["amount"] is None
        assert (await clients_with_prices.release(reservation)).json()["state"] == "released"


class TestRejectedRequest:
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
                "body",
                "unknown_field",
            ),
        ],
    )
    async def test_has_invalid_fields(self, clients: SpendClients, body: Any, field: str, code: str) -> None:
        response = await clients.service.post(clients.reservations_path, json=body)

        assert response.status_code == 422
        assert (response.json()["errors"][0]["field"], response.json()["errors"][0]["code"]) == (field, code)
        # What is missing or of the wrong form has one code, wherever it is found.
        assert response.json()["code"] == (
            code if code in {"amount_and_tokens", "unknown_field"} else "validation_failed"
        )

    async def test_is_not_from_an_internal_service(self, clients: SpendClients) -> None:
        body = {"amount": {"amount": "1", "currency": "USD"}}

        assert status_and_code(await clients.admin.post(clients.reservations_path, json=body)) == (
            403,
            "service_only",
        )
        path = f"{clients.reservations_path}/{uuid4()}"
        assert status_and_code(await clients.admin.request("DELETE", path)) == (403, "insufficient_scope")


class TestRelease:
    async def test_releases_once(self, clients: SpendClients) -> None:
        limit = await clients.create_limit()
        reservation = await clients.create_reservation("4")

        first, again = [await clients.release(reservation) for _ in range(2)]

        assert (first.status_code, again.status_code) == (200, 200)
        assert first.json() == again.json() == reservation | {"state": "released"}
        assert usd_of((await clients.get_limit(limit))["reserved"]) == "0.00"

    async def test_responds_404_for_an_unknown_reservation(self, clients: SpendClients) -> None:
        assert status_and_code(await clients.release({"id": str(uuid4())})) == (404, "not_found")

    async def test_responds_404_for_another_organization(self, clients: SpendClients) -> None:
        reservation = await clients.create_reservation("4")
        path = f"/v1/organizations/org_{uuid4().hex[:16]}/spend-reservations/{reservation['id']}"

        response = await clients.service.request("DELETE", path)

        assert status_and_code(response) == (404, "not_found")

    async def test_releases_an_expired_reservation(
        self, clients: SpendClients, superuser: AsyncEngine
    ) -> None:
        limit = await clients.create_limit()
        reservation = await clients.create_reservation("4")
        await expire(superuser, reservation)
        before = usd_of((await clients.get_limit(limit))["reserved"])

        released = await clients.release(reservation)

        assert before == "4.00"
        assert (released.status_code, released.json()["state"]) == (200, "released")
        assert usd_of((await clients.get_limit(limit))["reserved"]) == "0.00"

    async def test_rejects_a_reservation_whose_event_has_no_price(
        self, clients: SpendClients, database: Database
    ) -> None:
        limit = await clients.create_limit()
        reservation = await clients.create_reservation("4")
        await ingest(database, clients.admin.organization, row_of_reservation(reservation["id"], None))

        assert status_and_code(await clients.release(reservation)) == (409, "reservation_ended")
        assert usd_of((await clients.get_limit(limit))["reserved"]) == "4.00"


class TestList:
    async def states(self, clients: SpendClients, **params: Any) -> list[tuple[str, str]]:
        found = await get_json(clients.admin, f"{clients.reservations_path}?{urlencode(params)}")
        return [(one["id"], one["state"]) for one in found["data"]]

    async def test_shows_what_is_still_charged_newest_first(
        self, clients: SpendClients, database: Database, superuser: AsyncEngine
    ) -> None:
        made = [await clients.create_reservation("1") for _ in range(5)]
        is_open, expired, unpriced, settled, released = (one["id"] for one in made)
        await expire(superuser, made[1])
        rows = [row_of_reservation(unpriced, None), row_of_reservation(settled, usd(1))]
        await ingest(database, clients.admin.organization, *rows)
        await clients.release(made[4])

        assert await self.states(clients) == [
            (unpriced, "unpriced"),
            (expired, "expired"),
            (is_open, "open"),
        ]
        assert await self.states(clients, state="open") == [(is_open, "open")]
        assert await self.states(clients, state="expired") == [(expired, "expired")]
        assert await self.states(clients, state="unpriced") == [(unpriced, "unpriced")]
        for id_, state in ((settled, "settled"), (released, "released"), (expired, "expired")):
            found = await get_json(clients.admin, f"{clients.reservations_path}/{id_}")
            assert found["state"] == state

    async def test_continues_on_the_next_page(self, clients: SpendClients) -> None:
        made = [(await clients.create_reservation("1"))["id"] for _ in range(3)]

        path = f"{clients.reservations_path}?limit=2"
        first = await get_json(clients.admin, path)
        second = await get_json(clients.admin, f"{path}&page={first['next_page']}")

        assert [one["id"] for one in first["data"] + second["data"]] == made[::-1]
        assert (first["has_more"], second["has_more"]) == (True, False)

    async def test_responds_404_for_an_unknown_reservation(self, clients: SpendClients) -> None:
        response = await clients.admin.get(f"{clients.reservations_path}/{uuid4()}")

        assert status_and_code(response) == (404, "not_found")

    async def test_hides_other_organizations(self, clients: SpendClients) -> None:
        await clients.create_reservation("1")
        path = f"/v1/organizations/org_{uuid4().hex[:16]}/spend-reservations"

        response = await clients.service.get(path)

        assert response.json()["data"] == []


class TestUnpricedEvents:
    async def test_keep_the_reservation_charged_until_the_price_is_known(
        self, clients: SpendClients, database: Database
    ) -> None:
        limit = await clients.create_limit()
        reservation = await clients.create_reservation("9")
        unpriced = row_of_reservation(reservation["id"], None, model="anthropic/claude-opus-5")
        organization = clients.admin.organization
        await ingest(database, organization, unpriced)
        before = await clients.get_limit(limit)
        rejected = await clients.request_reservation("2")

        priced = replace(unpriced, correction=1, cost=usd(3), billed=usd(3), tokens=TokenUsage())
        await ingest(database, organization, priced)

        after = await clients.get_limit(limit)
        assert (usd_of(before["spent"]), usd_of(before["reserved"])) == ("0.00", "9.00")
        assert before["unpriced_requests"] == 1
        assert error_of(rejected) == (402, "spend_limit_exceeded", limit["id"], "limit_reached")
        assert (usd_of(after["spent"]), usd_of(after["reserved"])) == ("3.00", "0.00")
        assert after["unpriced_requests"] == 0

    async def test_are_settled_once(self, clients: SpendClients, database: Database) -> None:
        limit = await clients.create_limit()
        await clients.create_reservation("2")
        reservation = await clients.create_reservation("4")
        unpriced = row_of_reservation(reservation["id"], None)
        first = replace(unpriced, correction=1, cost=usd(1), billed=usd(1))
        organization = clients.admin.organization

        await ingest(database, organization, unpriced)
        await ingest(database, organization, first)
        await ingest(database, organization, replace(first, correction=2, cost=0, billed=0))

        found = await clients.get_limit(limit)
        assert (usd_of(found["spent"]), usd_of(found["reserved"])) == ("1.00", "2.00")

    async def test_are_settled_when_no_row_lacks_a_price(
        self, clients: SpendClients, database: Database
    ) -> None:
        """Several rows name one reservation. A priced one does not free what the other may have cost."""
        limit = await clients.create_limit()
        reservation = await clients.create_reservation("4")
        rows = [row_of_reservation(reservation["id"], cost) for cost in (None, usd(1), None)]
        organization = clients.admin.organization
        await ingest(database, organization, *rows)
        await ingest(database, organization, replace(rows[0], correction=1, cost=usd(1), billed=usd(1)))
        before = await clients.get_limit(limit)

        await ingest(database, organization, replace(rows[2], correction=1, cost=usd(1), billed=usd(1)))

        after = await clients.get_limit(limit)
        assert (usd_of(before["spent"]), usd_of(before["reserved"])) == ("2.00", "4.00")
        assert (usd_of(after["spent"]), usd_of(after["reserved"])) == ("3.00", "0.00")

    async def test_count_in_limits_created_later(self, clients: SpendClients, database: Database) -> None:
        reservation = await clients.create_reservation("4")
        unpriced = row_of_reservation(reservation["id"], None)
        await ingest(database, clients.admin.organization, unpriced)

        limit = await clients.create_limit()

        assert usd_of(limit["reserved"]) == "4.00"

    async def test_keep_an_expired_reservation_charged(
        self, clients: SpendClients, database: Database, superuser: AsyncEngine
    ) -> None:
        limit = await clients.create_limit()
        reservation = await clients.create_reservation("4")
        await expire(superuser, reservation)

        await ingest(database, clients.admin.organization, row_of_reservation(reservation["id"], None))

        assert usd_of((await clients.get_limit(limit))["reserved"]) == "4.00"


class TestModelIdentity:
    @pytest.mark.parametrize(
        ("scope", "model"),
        [
            ("claude-haiku-4-5", "claude-haiku-4-5-20251001"),
            ("claude-haiku-4-5-20251001", "claude-haiku-4-5"),
            ("claude-haiku-4-5-latest", "claude-haiku-4-5-20251001"),
        ],
    )
    async def test_counts_every_spelling_of_the_model(
        self, clients: SpendClients, database: Database, scope: str, model: str
    ) -> None:
        limit = await clients.create_limit(scope={"model": scope})
        await clients.create_reservation("6", model=model)

        rejected = await clients.request_reservation("5", model=scope)
        await ingest(database, clients.admin.organization, make_row(usd(1), model=model))
        found = await clients.get_limit(limit)
        later = await clients.create_limit(scope={"model": scope})

        assert rejected.status_code == 402
        assert found["scope"]["model"] == scope
        for one in (found, later):
            assert (usd_of(one["spent"]), usd_of(one["reserved"])) == ("1.00", "6.00")

    @pytest.mark.parametrize("model", ["claude-haiku-4-5-5", "claude-haiku-4", "anthropic/claude-haiku-4-5"])
    async def test_does_not_count_another_model(
        self, clients: SpendClients, database: Database, model: str
    ) -> None:
        limit = await clients.create_limit(scope={"model": "claude-haiku-4-5"})

        await clients.create_reservation("100", model=model)
        await ingest(database, clients.admin.organization, make_row(usd(100), model=model))
        later = await clients.create_limit(scope={"model": "claude-haiku-4-5"})

        for one in (await clients.get_limit(limit), later):
            assert (usd_of(one["spent"]), usd_of(one["reserved"])) == ("0.00", "0.00")


class TestSettle:
    async def test_replaces_the_estimate_by_the_cost(self, clients: SpendClients, database: Database) -> None:
        limit = await clients.create_limit()
        reservation = await clients.create_reservation("4")

        await ingest(database, clients.admin.organization, row_of_reservation(reservation["id"], usd("1.5")))

        found = await clients.get_limit(limit)
        assert (usd_of(found["spent"]), usd_of(found["reserved"])) == ("1.50", "0.00")
        assert status_and_code(await clients.release(reservation)) == (409, "reservation_ended")

    async def test_settles_an_expired_reservation(
        self, clients: SpendClients, database: Database, superuser: AsyncEngine
    ) -> None:
        limit = await clients.create_limit()
        reservation = await clients.create_reservation("10")
        await expire(superuser, reservation)
        rejected = await clients.request_reservation("1")

        await ingest(database, clients.admin.organization, row_of_reservation(reservation["id"], usd(2)))

        assert rejected.status_code == 402
        assert usd_of((await clients.get_limit(limit))["remaining"]) == "8.00"

    async def test_releases_limits_that_do_not_match_the_event(
        self, clients: SpendClients, database: Database
    ) -> None:
        """The event has a different feature than its reservation. Each counts in its own limit."""
        reserved_limit = await clients.create_limit(scope={"feature": "assistant"})
        done = await clients.create_limit(scope={"feature": "search"})
        reservation = await clients.create_reservation("4", feature="assistant")

        event = row_of_reservation(reservation["id"], usd(1), feature="search")
        await ingest(database, clients.admin.organization, event)

        assert usd_of((await clients.get_limit(reserved_limit))["remaining"]) == "10.00"
        assert usd_of((await clients.get_limit(done))["spent"]) == "1.00"

    async def test_settles_once_for_repeated_events(self, clients: SpendClients, database: Database) -> None:
        limit = await clients.create_limit()
        await clients.create_reservation("2")
        reservation = await clients.create_reservation("4")

        organization = clients.admin.organization
        twice = [row_of_reservation(reservation["id"], usd(1)) for _ in range(2)]
        await ingest(database, organization, *twice)
        await ingest(database, organization, row_of_reservation(reservation["id"], usd(1)))

        found = await clients.get_limit(limit)
        assert (usd_of(found["spent"]), usd_of(found["reserved"])) == ("3.00", "2.00")

    async def test_counts_events_with_an_unknown_reservation(
        self, clients: SpendClients, database: Database
    ) -> None:
        limit = await clients.create_limit()

        await ingest(database, clients.admin.organization, row_of_reservation(str(uuid4()), usd(1)))

        assert usd_of((await clients.get_limit(limit))["spent"]) == "1.00"

    async def test_counts_events_of_released_reservations(
        self, clients: SpendClients, database: Database
    ) -> None:
        limit = await clients.create_limit()
        reservation = await clients.create_reservation("4")
        await clients.release(reservation)

        await ingest(database, clients.admin.organization, row_of_reservation(reservation["id"], usd(1)))

        found = await clients.get_limit(limit)
        assert (usd_of(found["spent"]), usd_of(found["reserved"])) == ("1.00", "0.00")

    async def test_settles_without_limits(self, clients: SpendClients, database: Database) -> None:
        reservation = await clients.create_reservation("4")
        await ingest(database, clients.admin.organization, row_of_reservation(reservation["id"], usd(1)))

        limit = await clients.create_limit()

        assert (usd_of(limit["spent"]), usd_of(limit["reserved"])) == ("1.00", "0.00")

    async def test_shows_cost_above_the_estimate_as_overrun(
        self, clients: SpendClients, database: Database
    ) -> None:
        limit = await clients.create_limit()
        reservation = await clients.create_reservation("10")

        await ingest(
            database, clients.admin.organization, row_of_reservation(reservation["id"], usd("10.25"))
        )

        assert usd_of((await clients.get_limit(limit))["overrun"]) == "0.25"


class TestReadiness:
    async def blockers(self, clients: SpendClients) -> list[str]:
        found: list[str] = (await get_json(clients.admin, f"{clients.admin.path}/readiness"))["blockers"]
        return found

    async def test_reports_a_used_up_limit(self, clients: SpendClients) -> None:
        limit = await clients.create_limit()
        before = await self.blockers(clients)
        await clients.create_reservation("10")

        after = await get_json(clients.admin, f"{clients.admin.path}/readiness")

        assert before == []
        assert after == {
            "ready": False,
            "mode": "managed",
            "credential_id": None,
            "blockers": ["spend_limit_reached"],
            "details": [
                {
                    "code": "spend_limit_reached",
                    "credential_id": None,
                    "reason": None,
                    "limit_id": limit["id"],
                    "limit_name": "Monthly budget",
                    "period_ends_at": (await clients.get_limit(limit))["period_ends_at"],
                }
            ],
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
    async def test_ignores_limits_that_do_not_block_everything(
        self, clients: SpendClients, database: Database, fields: Any
    ) -> None:
        await clients.create_limit(**fields)
        event = make_row(usd(20), model="claude-sonnet-4-5", feature="assistant", endpoint_id="ep_1")
        byo = make_row(usd(20), mode=UsageMode.BYO)

        await ingest(database, clients.admin.organization, event, byo)

        assert await self.blockers(clients) == []

    async def test_considers_the_active_mode(self, clients: SpendClients, database: Database) -> None:
        await clients.create_limit(scope={"usage_mode": "any"}, period="total")
        await ingest(database, clients.admin.organization, make_row(usd(10)))
        managed = await self.blockers(clients)
        await clients.switch_mode("byo")

        byo = await self.blockers(clients)

        assert managed == ["spend_limit_reached"]
        assert byo == ["credential_missing", "spend_limit_reached"]

    async def test_considers_the_current_period(self, clients: SpendClients, database: Database) -> None:
        await clients.create_limit(period="day")
        yesterday = datetime.now(UTC) - timedelta(days=1)

        await ingest(database, clients.admin.organization, make_row(usd(20), started_at=yesterday))

        assert await self.blockers(clients) == []

    async def test_reports_a_limit_of_0_as_used_up(self, clients: SpendClients) -> None:
        limit = await clients.create_limit(amount={"amount": "0", "currency": "USD"})

        assert await self.blockers(clients) == ["spend_limit_reached"]
        assert limit["percent_used"] is None
        assert limit["crossings"] == []
