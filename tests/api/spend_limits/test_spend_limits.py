"""Spend limits: create, get, list, update and delete, and what they count."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.database.engine import Database
from app.usage_mode.modes import UsageMode
from tests.support.database.rows import change, fetch
from tests.support.database.spending_ledger import ingest, make_row, usd
from tests.support.requests.rotation import get_json, status_and_code
from tests.support.requests.spend_limits import MONTHLY, SpendClients, usd_of
from tests.support.tenant import MakeTenant

FIRST_OF_MONTH = datetime.now(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)


class TestCreate:
    async def test_returns_a_limit_without_spend(self, clients: SpendClients) -> None:
        limit = await clients.create_limit()

        assert limit["name"] == "Monthly budget"
        assert limit["scope"] == {
            "usage_mode": "managed",
            "model": None,
            "endpoint_id": None,
            "feature": None,
        }
        assert limit["enforcement"] == "block"
        assert limit["thresholds"] == [50, 80, 100]
        assert {usd_of(limit[name]) for name in ("spent", "reserved", "overrun", "projected")} == {"0.00"}
        assert usd_of(limit["remaining"]) == "10.00"
        assert limit["percent_used"] == 0
        assert limit["crossings"] == []
        assert await clients.get_limit(limit) | {"projected": None} == limit | {"projected": None}

    async def test_uses_calendar_months_in_utc(self, clients: SpendClients) -> None:
        limit = await clients.create_limit()

        starts_at = datetime.fromisoformat(limit["period_starts_at"])
        assert starts_at == FIRST_OF_MONTH
        assert datetime.fromisoformat(limit["period_ends_at"]) == (starts_at + timedelta(days=32)).replace(
            day=1
        )

    async def test_of_a_total_limit_has_no_period_or_projection(self, clients: SpendClients) -> None:
        limit = await clients.create_limit(period="total")

        assert limit["period_starts_at"] is limit["period_ends_at"] is limit["projected"] is None

    async def test_counts_earlier_spend(self, clients: SpendClients, database: Database) -> None:
        organization = clients.admin.organization
        yesterday = datetime.now(UTC) - timedelta(days=1)
        await ingest(
            database,
            organization,
            make_row(usd("1.5")),
            make_row(usd("2.25"), started_at=yesterday),
            make_row(usd(4), mode=UsageMode.BYO),
            make_row(None),
        )

        total = await clients.create_limit(period="total")
        today = await clients.create_limit(period="day")

        assert usd_of(total["spent"]) == "3.75"
        assert usd_of(today["spent"]) == "1.50"
        assert total["unpriced_requests"] == today["unpriced_requests"] == 1

    async def test_reports_thresholds_that_are_crossed_already(
        self, clients: SpendClients, database: Database
    ) -> None:
        await ingest(database, clients.admin.organization, make_row(usd(9)))

        limit = await clients.create_limit()

        assert [crossing["threshold"] for crossing in limit["crossings"]] == [50, 80]

    async def test_shows_managed_and_byo_spend_separately(
        self, clients: SpendClients, database: Database
    ) -> None:
        rows = make_row(usd(1)), make_row(usd(2), mode=UsageMode.BYO)
        await ingest(database, clients.admin.organization, *rows)

        limits = {
            mode: await clients.create_limit(scope={"usage_mode": mode}) for mode in ("managed", "byo", "any")
        }

        spent = {
            mode: (usd_of(limit["spent"]), usd_of(limit["spent_managed"]), usd_of(limit["spent_byo"]))
            for mode, limit in limits.items()
        }
        assert spent == {
            "managed": ("1.00", "1.00", "0.00"),
            "byo": ("2.00", "0.00", "2.00"),
            "any": ("3.00", "1.00", "2.00"),
        }

    async def test_replays_the_response_for_an_idempotency_key(self, clients: SpendClients) -> None:
        headers = {"Idempotency-Key": "once"}
        first = await clients.admin.post(clients.limits_path, json=MONTHLY, headers=headers)
        again = await clients.admin.post(clients.limits_path, json=MONTHLY, headers=headers)

        assert again.headers["Idempotency-Replayed"] == "true"
        assert again.json() == first.json()
        assert len((await get_json(clients.admin, clients.limits_path))["data"]) == 1

    async def test_resumes_with_the_same_id(self, clients: SpendClients, superuser: AsyncEngine) -> None:
        """The first request created the limit, and its process crashed before the response was stored."""
        headers = {"Idempotency-Key": "crashed"}
        first = await clients.admin.post(clients.limits_path, json=MONTHLY, headers=headers)
        await delete_stored_response(superuser, clients.admin.organization)

        again = await clients.admin.post(clients.limits_path, json=MONTHLY, headers=headers)

        assert again.status_code == 201
        assert again.json()["id"] == first.json()["id"]
        assert len((await get_json(clients.admin, clients.limits_path))["data"]) == 1

    @pytest.mark.parametrize(
        ("field", "value", "code"),
        [
            ("name", "", "too_short"),
            ("name", "  ", "text_blank"),
            ("name", "a\u202eb", "text_has_controls"),
            ("name", "sk-ant-api03-abcdefghijklmnop", "looks_like_key"),
            ("amount", {"amount": "-1", "currency": "USD"}, "invalid_format"),
            ("amount", {"amount": 5, "currency": "USD"}, "invalid_type"),
            ("amount", {"amount": "1.0000000000001", "currency": "USD"}, "invalid_format"),
            ("amount", {"amount": "9000001", "currency": "USD"}, "amount_too_large"),
            ("amount", {"amount": "1", "currency": "EUR"}, "invalid_choice"),
            ("period", "week", "invalid_choice"),
            ("enforcement", "deny", "invalid_choice"),
            ("thresholds", [0], "too_small"),
            ("thresholds", [50, 50], "thresholds_repeated"),
            ("scope", {"usage_mode": "own"}, "invalid_choice"),
            ("scope", {"organization": "x"}, "unknown_field"),
            ("colour", "red", "unknown_field"),
        ],
    )
    async def test_rejects_invalid_fields(
        self, clients: SpendClients, field: str, value: Any, code: str
    ) -> None:
        response = await clients.admin.post(clients.limits_path, json=MONTHLY | {field: value})

        assert response.status_code == 422, response.text
        assert code in {error["code"] for error in response.json()["errors"]}

    async def test_rejects_more_than_100_limits(self, clients: SpendClients, superuser: AsyncEngine) -> None:
        await change(
            superuser,
            """INSERT INTO spend_limit SELECT :organization, gen_random_uuid(), 'Budget', 1, 'total', 'any',
                NULL, NULL, NULL, 'notify', '{100}', now(), 1, now(), 'admin', now()
                FROM generate_series(1, 100)""",
            organization=clients.admin.organization,
        )

        response = await clients.admin.post(clients.limits_path, json=MONTHLY)

        assert status_and_code(response) == (409, "too_many_limits")

    async def test_requires_the_scope(self, make_tenant: MakeTenant) -> None:
        viewer = make_tenant("billing-viewer")

        response = await viewer.post(f"{viewer.path}/spend-limits", json=MONTHLY)

        assert status_and_code(response) == (403, "insufficient_scope")


async def delete_stored_response(superuser: AsyncEngine, organization: str) -> None:
    await change(
        superuser,
        "UPDATE idempotency_key SET status_code = NULL, headers = NULL, body = NULL,"
        " held_until = now() - interval '1 second' WHERE organization_id = :organization",
        organization=organization,
    )


class TestCounting:
    async def test_adds_every_batch(self, clients: SpendClients, database: Database) -> None:
        limit = await clients.create_limit()

        for _ in range(3):
            await ingest(database, clients.admin.organization, make_row(usd("0.5")), make_row(usd("0.25")))

        found = await clients.get_limit(limit)
        assert usd_of(found["spent"]) == "2.25"
        assert usd_of(found["remaining"]) == "7.75"
        assert found["percent_used"] == 22.5

    async def test_projects_the_spend_at_the_end_of_the_period(
        self, clients: SpendClients, database: Database
    ) -> None:
        limit = await clients.create_limit(period="day")
        await ingest(database, clients.admin.organization, make_row(usd(1)))

        found = await clients.get_limit(limit)

        starts_at = datetime.fromisoformat(found["period_starts_at"])
        share = (datetime.now(UTC) - starts_at) / timedelta(days=1)
        assert float(usd_of(found["projected"])) == pytest.approx(1 / share, rel=0.05)

    async def test_shows_excess_spend_as_overrun(self, clients: SpendClients, database: Database) -> None:
        limit = await clients.create_limit()

        await ingest(database, clients.admin.organization, make_row(usd("12.5")))

        found = await clients.get_limit(limit)
        assert (usd_of(found["overrun"]), usd_of(found["remaining"])) == ("2.50", "0.00")
        assert found["percent_used"] == 125

    async def test_counts_late_events_in_their_own_period(
        self, clients: SpendClients, database: Database
    ) -> None:
        limit = await clients.create_limit(period="day")
        two_days_ago = datetime.now(UTC) - timedelta(days=2)

        await ingest(database, clients.admin.organization, make_row(usd(9), started_at=two_days_ago))

        found = await clients.get_limit(limit)
        assert usd_of(found["spent"]) == "0.00"
        assert found["crossings"] == []

    async def test_prices_an_unpriced_request_by_its_correction(
        self, clients: SpendClients, database: Database
    ) -> None:
        limit = await clients.create_limit()
        event = make_row(None)
        await ingest(database, clients.admin.organization, event)
        before = await clients.get_limit(limit)

        priced = make_row(usd(2), started_at=event.started_at, event_id=event.event_id, correction=1)
        await ingest(database, clients.admin.organization, priced)

        after = await clients.get_limit(limit)
        assert (before["unpriced_requests"], usd_of(before["spent"])) == (1, "0.00")
        assert (after["unpriced_requests"], usd_of(after["spent"])) == (0, "2.00")

    async def test_counts_the_billed_cost_of_managed_usage(
        self, clients: SpendClients, database: Database
    ) -> None:
        """A managed event with a credential is billed 0, because the organization paid its provider."""
        limit = await clients.create_limit()

        await ingest(database, clients.admin.organization, make_row(usd(3), billed=0))

        assert usd_of((await clients.get_limit(limit))["spent"]) == "0.00"

    @pytest.mark.parametrize(
        ("scope", "spent"),
        [
            ({}, "7.00"),
            ({"model": "claude-haiku-4-5"}, "2.00"),
            ({"feature": "assistant"}, "4.00"),
            ({"endpoint_id": "ep_1"}, "0.00"),
            ({"model": "claude-haiku-4-5", "feature": "assistant"}, "0.00"),
            ({"usage_mode": "any"}, "15.00"),
        ],
    )
    async def test_counts_only_matching_spend(
        self, clients: SpendClients, database: Database, scope: Any, spent: str
    ) -> None:
        before = await clients.create_limit(scope=scope)
        await ingest(
            database,
            clients.admin.organization,
            make_row(usd(1)),
            make_row(usd(2), model="claude-haiku-4-5"),
            make_row(usd(4), feature="assistant"),
            make_row(usd(8), mode=UsageMode.BYO),
        )
        after = await clients.create_limit(scope=scope)

        assert usd_of((await clients.get_limit(before))["spent"]) == usd_of(after["spent"]) == spent

    async def test_ignores_other_organizations(
        self, clients: SpendClients, make_tenant: MakeTenant, database: Database
    ) -> None:
        limit = await clients.create_limit()

        await ingest(database, make_tenant().organization, make_row(usd(5)))

        assert usd_of((await clients.get_limit(limit))["spent"]) == "0.00"


class TestThresholds:
    async def test_are_crossed_once(self, clients: SpendClients, database: Database) -> None:
        limit = await clients.create_limit(thresholds=[100, 50])
        seen_at = []
        for _ in range(6):
            await ingest(database, clients.admin.organization, make_row(usd(2)))
            seen_at.append([c["threshold"] for c in (await clients.get_limit(limit))["crossings"]])

        assert seen_at == [[], [], [50], [50], [50, 100], [50, 100]]

    async def test_record_the_spend_at_the_crossing(self, clients: SpendClients, database: Database) -> None:
        limit = await clients.create_limit(thresholds=[50])
        await ingest(database, clients.admin.organization, make_row(usd(7)))
        await ingest(database, clients.admin.organization, make_row(usd(1)))

        (crossing,) = (await clients.get_limit(limit))["crossings"]

        assert usd_of(crossing["spent"]) == "7.00"
        assert crossing["crossed_at"].endswith("Z")


class TestUpdate:
    async def test_keeps_omitted_fields(self, clients: SpendClients) -> None:
        limit = await clients.create_limit(scope={"feature": "assistant"})

        response = await clients.update_limit(limit, name="Less", scope={"model": "claude-haiku-4-5"})

        changed = response.json()
        assert response.status_code == 200, response.text
        assert changed["name"] == "Less"
        assert changed["scope"] == limit["scope"] | {"model": "claude-haiku-4-5"}
        assert changed["amount"] == limit["amount"]

    async def test_removes_a_restriction_with_null(self, clients: SpendClients, database: Database) -> None:
        limit = await clients.create_limit(scope={"feature": "assistant"})
        await ingest(database, clients.admin.organization, make_row(usd(6)))

        changed = (await clients.update_limit(limit, scope={"feature": None})).json()

        assert changed["scope"]["feature"] is None
        assert usd_of(changed["spent"]) == "6.00"
        assert [crossing["threshold"] for crossing in changed["crossings"]] == [50]

    async def test_of_the_period_recounts_the_spend(self, clients: SpendClients, database: Database) -> None:
        limit = await clients.create_limit(period="day")
        earlier = datetime.now(UTC) - timedelta(days=1)
        await ingest(
            database, clients.admin.organization, make_row(usd(3)), make_row(usd(4), started_at=earlier)
        )

        changed = (await clients.update_limit(limit, period="total")).json()

        assert usd_of(changed["spent"]) == "7.00"

    async def test_of_the_amount_reports_crossed_thresholds(
        self, clients: SpendClients, database: Database
    ) -> None:
        limit = await clients.create_limit()
        await ingest(database, clients.admin.organization, make_row(usd(4)))

        changed = (await clients.update_limit(limit, amount={"amount": "5"})).json()

        assert usd_of(changed["remaining"]) == "1.00"
        assert [crossing["threshold"] for crossing in changed["crossings"]] == [50, 80]

    async def test_of_the_amount_rearms_the_thresholds(
        self, clients: SpendClients, database: Database
    ) -> None:
        """Each crossing carries the amount that it was measured against."""
        limit = await clients.create_limit()
        await ingest(database, clients.admin.organization, make_row(usd(8)))
        before = (await clients.get_limit(limit))["crossings"]

        raised = (await clients.update_limit(limit, amount={"amount": "100"})).json()
        await ingest(database, clients.admin.organization, make_row(usd(50)))

        after = (await clients.get_limit(limit))["crossings"]
        assert [(it["threshold"], usd_of(it["amount"])) for it in before] == [(50, "10.00"), (80, "10.00")]
        assert raised["crossings"] == []
        assert [(it["threshold"], usd_of(it["amount"]), usd_of(it["spent"])) for it in after] == [
            (50, "100.00", "58.00")
        ]

    async def test_without_a_difference_changes_nothing(self, clients: SpendClients) -> None:
        limit = await clients.create_limit()
        before = await clients.admin.get(f"{clients.limits_path}/{limit['id']}")

        after = await clients.update_limit(limit, name=limit["name"])

        assert after.headers["ETag"] == before.headers["ETag"]
        assert after.json()["updated_at"] == limit["updated_at"]

    @pytest.mark.parametrize("field", ["name", "amount", "period", "scope", "enforcement", "thresholds"])
    async def test_rejects_null(self, clients: SpendClients, field: str) -> None:
        limit = await clients.create_limit()

        assert (await clients.update_limit(limit, **{field: None})).status_code == 422

    async def test_responds_404_for_an_unknown_limit(self, clients: SpendClients) -> None:
        limit = {"id": "0199a2b4-c6d8-7e01-a2b3-c4d5e6f70819"}

        assert status_and_code(await clients.update_limit(limit, name="x")) == (404, "not_found")


class TestEtag:
    async def test_does_not_change_with_spend(self, clients: SpendClients, database: Database) -> None:
        limit = await clients.create_limit()
        path = f"{clients.limits_path}/{limit['id']}"
        before = (await clients.admin.get(path)).headers["ETag"]

        await ingest(database, clients.admin.organization, make_row(usd(6)))
        await clients.create_reservation("1")

        assert (await clients.admin.get(path)).headers["ETag"] == before

    async def test_stale_is_rejected(self, clients: SpendClients) -> None:
        limit = await clients.create_limit()
        old = {"If-Match": (await clients.admin.get(f"{clients.limits_path}/{limit['id']}")).headers["ETag"]}
        assert (await clients.update_limit(limit, name="Mine", headers=old)).status_code == 200

        assert status_and_code(await clients.update_limit(limit, name="Yours", headers=old)) == (
            412,
            "precondition_failed",
        )
        deleted = await clients.admin.request("DELETE", f"{clients.limits_path}/{limit['id']}", headers=old)
        assert status_and_code(deleted) == (412, "precondition_failed")
        assert (await clients.get_limit(limit))["name"] == "Mine"


class TestDelete:
    async def test_deletes_the_limit(self, clients: SpendClients, database: Database) -> None:
        limit = await clients.create_limit()
        await ingest(database, clients.admin.organization, make_row(usd(6)))
        path = f"{clients.limits_path}/{limit['id']}"

        response = await clients.admin.request("DELETE", path)

        assert response.status_code == 200
        assert response.json()["id"] == limit["id"]
        assert status_and_code(await clients.admin.get(path)) == (404, "not_found")
        assert status_and_code(await clients.admin.request("DELETE", path)) == (404, "not_found")


class TestList:
    async def test_returns_pages_newest_first(self, clients: SpendClients) -> None:
        created = [(await clients.create_limit(name=f"Limit {n}"))["id"] for n in range(3)]

        first = await get_json(clients.admin, f"{clients.limits_path}?limit=2")
        second = await get_json(clients.admin, f"{clients.limits_path}?limit=2&page={first['next_page']}")

        assert [limit["id"] for limit in first["data"] + second["data"]] == created[::-1]
        assert not second["has_more"]

    async def test_excludes_other_organizations(self, clients: SpendClients, make_tenant: MakeTenant) -> None:
        await clients.create_limit()
        other = make_tenant()

        assert (await get_json(other, f"{other.path}/spend-limits"))["data"] == []
        assert status_and_code(await other.get(clients.limits_path)) == (404, "not_found")


class TestAuditEvents:
    async def test_record_creation_updates_and_deletion(
        self, clients: SpendClients, superuser: AsyncEngine
    ) -> None:
        limit = await clients.create_limit()
        await clients.update_limit(limit, amount={"amount": "20"})
        await clients.admin.request("DELETE", f"{clients.limits_path}/{limit['id']}")

        found = await fetch(
            superuser,
            "SELECT action, details FROM audit_event WHERE organization_id = :organization ORDER BY id",
            organization=clients.admin.organization,
        )

        assert [event["action"] for event in found] == [
            "spend_limit.created",
            "spend_limit.changed",
            "spend_limit.deleted",
        ]
        assert {event["details"]["spend_limit_id"] for event in found} == {limit["id"]}
        assert [event["details"]["amount"] for event in found] == ["10.00", "20.00", "20.00"]
