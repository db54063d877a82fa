"""Spend limits: set, read back with what the ledger holds, changed, deleted."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.database.engine import Database
from app.usage_mode.modes import UsageMode
from tests.api.rotating import refusal, seen
from tests.api.spending import MONTHLY, Spenders, usd_of
from tests.conftest import MakeTenant
from tests.rows import change, fetch
from tests.spend_ledger import ingest, make_row, usd

FIRST_OF_MONTH = datetime.now(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)


class TestSetting:
    async def test_reads_back_with_nothing_spent(self, spenders: Spenders) -> None:
        limit = await spenders.set_limit()

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
        assert await spenders.limit(limit) | {"projected": None} == limit | {"projected": None}

    async def test_counts_a_month_in_utc(self, spenders: Spenders) -> None:
        limit = await spenders.set_limit()

        starts_at = datetime.fromisoformat(limit["period_starts_at"])
        assert starts_at == FIRST_OF_MONTH
        assert datetime.fromisoformat(limit["period_ends_at"]) == (starts_at + timedelta(days=32)).replace(
            day=1
        )

    async def test_of_a_total_has_no_period_and_no_projection(self, spenders: Spenders) -> None:
        limit = await spenders.set_limit(period="total")

        assert limit["period_starts_at"] is limit["period_ends_at"] is limit["projected"] is None

    async def test_starts_from_the_ledger(self, spenders: Spenders, database: Database) -> None:
        organization = spenders.admin.organization
        yesterday = datetime.now(UTC) - timedelta(days=1)
        await ingest(
            database,
            organization,
            make_row(usd("1.5")),
            make_row(usd("2.25"), started_at=yesterday),
            make_row(usd(4), mode=UsageMode.BYO),
            make_row(None),
        )

        total = await spenders.set_limit(period="total")
        today = await spenders.set_limit(period="day")

        assert usd_of(total["spent"]) == "3.75"
        assert usd_of(today["spent"]) == "1.50"
        assert total["unpriced_requests"] == today["unpriced_requests"] == 1

    async def test_below_what_is_spent_tells_at_once(self, spenders: Spenders, database: Database) -> None:
        await ingest(database, spenders.admin.organization, make_row(usd(9)))

        limit = await spenders.set_limit()

        assert [crossing["threshold"] for crossing in limit["crossings"]] == [50, 80]

    async def test_shows_managed_and_byo_apart(self, spenders: Spenders, database: Database) -> None:
        rows = make_row(usd(1)), make_row(usd(2), mode=UsageMode.BYO)
        await ingest(database, spenders.admin.organization, *rows)

        shown = {
            mode: await spenders.set_limit(scope={"usage_mode": mode}) for mode in ("managed", "byo", "any")
        }

        apart = {
            mode: (usd_of(limit["spent"]), usd_of(limit["spent_managed"]), usd_of(limit["spent_byo"]))
            for mode, limit in shown.items()
        }
        assert apart == {
            "managed": ("1.00", "1.00", "0.00"),
            "byo": ("2.00", "0.00", "2.00"),
            "any": ("3.00", "1.00", "2.00"),
        }

    async def test_once_under_an_idempotency_key(self, spenders: Spenders) -> None:
        headers = {"Idempotency-Key": "once"}
        first = await spenders.admin.post(spenders.limits, json=MONTHLY, headers=headers)
        again = await spenders.admin.post(spenders.limits, json=MONTHLY, headers=headers)

        assert again.headers["Idempotency-Replayed"] == "true"
        assert again.json() == first.json()
        assert len((await seen(spenders.admin, spenders.limits))["data"]) == 1

    async def test_is_resumed_under_its_id(self, spenders: Spenders, owner: AsyncEngine) -> None:
        """The first holder made it and died before its answer was kept."""
        headers = {"Idempotency-Key": "crashed"}
        first = await spenders.admin.post(spenders.limits, json=MONTHLY, headers=headers)
        await forget_answer(owner, spenders.admin.organization)

        again = await spenders.admin.post(spenders.limits, json=MONTHLY, headers=headers)

        assert again.status_code == 201
        assert again.json()["id"] == first.json()["id"]
        assert len((await seen(spenders.admin, spenders.limits))["data"]) == 1

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
    async def test_refuses(self, spenders: Spenders, field: str, value: Any, code: str) -> None:
        response = await spenders.admin.post(spenders.limits, json=MONTHLY | {field: value})

        assert response.status_code == 422, response.text
        assert code in {error["code"] for error in response.json()["errors"]}

    async def test_has_an_end(self, spenders: Spenders, owner: AsyncEngine) -> None:
        await change(
            owner,
            """INSERT INTO spend_limit SELECT :organization, gen_random_uuid(), 'Budget', 1, 'total', 'any',
                NULL, NULL, NULL, 'notify', '{100}', now(), 1, now(), 'admin', now()
                FROM generate_series(1, 100)""",
            organization=spenders.admin.organization,
        )

        response = await spenders.admin.post(spenders.limits, json=MONTHLY)

        assert refusal(response) == (409, "too_many_limits")

    async def test_needs_the_scope(self, make_tenant: MakeTenant) -> None:
        viewer = make_tenant("billing-viewer")

        response = await viewer.post(f"{viewer.path}/spend-limits", json=MONTHLY)

        assert refusal(response) == (403, "insufficient_scope")


async def forget_answer(owner: AsyncEngine, organization: str) -> None:
    await change(
        owner,
        "UPDATE idempotency_key SET status_code = NULL, headers = NULL, body = NULL,"
        " held_until = now() - interval '1 second' WHERE organization_id = :organization",
        organization=organization,
    )


class TestCounting:
    async def test_follows_every_batch(self, spenders: Spenders, database: Database) -> None:
        limit = await spenders.set_limit()

        for _ in range(3):
            await ingest(database, spenders.admin.organization, make_row(usd("0.5")), make_row(usd("0.25")))

        found = await spenders.limit(limit)
        assert usd_of(found["spent"]) == "2.25"
        assert usd_of(found["remaining"]) == "7.75"
        assert found["percent_used"] == 22.5

    async def test_projects_to_the_end_of_the_period(self, spenders: Spenders, database: Database) -> None:
        limit = await spenders.set_limit(period="day")
        await ingest(database, spenders.admin.organization, make_row(usd(1)))

        found = await spenders.limit(limit)

        starts_at = datetime.fromisoformat(found["period_starts_at"])
        share = (datetime.now(UTC) - starts_at) / timedelta(days=1)
        assert float(usd_of(found["projected"])) == pytest.approx(1 / share, rel=0.05)

    async def test_shows_what_exceeds_as_overrun(self, spenders: Spenders, database: Database) -> None:
        limit = await spenders.set_limit()

        await ingest(database, spenders.admin.organization, make_row(usd("12.5")))

        found = await spenders.limit(limit)
        assert (usd_of(found["overrun"]), usd_of(found["remaining"])) == ("2.50", "0.00")
        assert found["percent_used"] == 125

    async def test_of_a_late_event_is_in_its_own_period(self, spenders: Spenders, database: Database) -> None:
        limit = await spenders.set_limit(period="day")
        two_days_ago = datetime.now(UTC) - timedelta(days=2)

        await ingest(database, spenders.admin.organization, make_row(usd(9), started_at=two_days_ago))

        found = await spenders.limit(limit)
        assert usd_of(found["spent"]) == "0.00"
        assert found["crossings"] == []

    async def test_of_a_correction_takes_an_unpriced_request_away(
        self, spenders: Spenders, database: Database
    ) -> None:
        limit = await spenders.set_limit()
        event = make_row(None)
        await ingest(database, spenders.admin.organization, event)
        before = await spenders.limit(limit)

        priced = make_row(usd(2), started_at=event.started_at, event_id=event.event_id, correction=1)
        await ingest(database, spenders.admin.organization, priced)

        after = await spenders.limit(limit)
        assert (before["unpriced_requests"], usd_of(before["spent"])) == (1, "0.00")
        assert (after["unpriced_requests"], usd_of(after["spent"])) == (0, "2.00")

    async def test_takes_what_is_billed_of_managed_use(self, spenders: Spenders, database: Database) -> None:
        """A managed event that names a credential is billed 0: the organization paid."""
        limit = await spenders.set_limit()

        await ingest(database, spenders.admin.organization, make_row(usd(3), billed=0))

        assert usd_of((await spenders.limit(limit))["spent"]) == "0.00"

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
    async def test_counts_what_its_scope_names(
        self, spenders: Spenders, database: Database, scope: Any, spent: str
    ) -> None:
        before = await spenders.set_limit(scope=scope)
        await ingest(
            database,
            spenders.admin.organization,
            make_row(usd(1)),
            make_row(usd(2), model="claude-haiku-4-5"),
            make_row(usd(4), feature="assistant"),
            make_row(usd(8), mode=UsageMode.BYO),
        )
        after = await spenders.set_limit(scope=scope)

        assert usd_of((await spenders.limit(before))["spent"]) == usd_of(after["spent"]) == spent

    async def test_is_that_of_one_organization_alone(
        self, spenders: Spenders, make_tenant: MakeTenant, database: Database
    ) -> None:
        limit = await spenders.set_limit()

        await ingest(database, make_tenant().organization, make_row(usd(5)))

        assert usd_of((await spenders.limit(limit))["spent"]) == "0.00"


class TestThreshold:
    async def test_is_crossed_once(self, spenders: Spenders, database: Database) -> None:
        limit = await spenders.set_limit(thresholds=[100, 50])
        seen_at = []
        for _ in range(6):
            await ingest(database, spenders.admin.organization, make_row(usd(2)))
            seen_at.append([c["threshold"] for c in (await spenders.limit(limit))["crossings"]])

        assert seen_at == [[], [], [50], [50], [50, 100], [50, 100]]

    async def test_notes_what_was_spent_when_it_was_crossed(
        self, spenders: Spenders, database: Database
    ) -> None:
        limit = await spenders.set_limit(thresholds=[50])
        await ingest(database, spenders.admin.organization, make_row(usd(7)))
        await ingest(database, spenders.admin.organization, make_row(usd(1)))

        (crossing,) = (await spenders.limit(limit))["crossings"]

        assert usd_of(crossing["spent"]) == "7.00"
        assert crossing["crossed_at"].endswith("Z")


class TestChanging:
    async def test_keeps_what_is_not_named(self, spenders: Spenders) -> None:
        limit = await spenders.set_limit(scope={"feature": "assistant"})

        response = await spenders.change(limit, name="Less", scope={"model": "claude-haiku-4-5"})

        changed = response.json()
        assert response.status_code == 200, response.text
        assert changed["name"] == "Less"
        assert changed["scope"] == limit["scope"] | {"model": "claude-haiku-4-5"}
        assert changed["amount"] == limit["amount"]

    async def test_takes_a_restriction_away_by_null(self, spenders: Spenders, database: Database) -> None:
        limit = await spenders.set_limit(scope={"feature": "assistant"})
        await ingest(database, spenders.admin.organization, make_row(usd(6)))

        changed = (await spenders.change(limit, scope={"feature": None})).json()

        assert changed["scope"]["feature"] is None
        assert usd_of(changed["spent"]) == "6.00"
        assert [crossing["threshold"] for crossing in changed["crossings"]] == [50]

    async def test_of_the_period_counts_anew(self, spenders: Spenders, database: Database) -> None:
        limit = await spenders.set_limit(period="day")
        earlier = datetime.now(UTC) - timedelta(days=1)
        await ingest(
            database, spenders.admin.organization, make_row(usd(3)), make_row(usd(4), started_at=earlier)
        )

        changed = (await spenders.change(limit, period="total")).json()

        assert usd_of(changed["spent"]) == "7.00"

    async def test_of_the_amount_tells_what_is_crossed_by_it(
        self, spenders: Spenders, database: Database
    ) -> None:
        limit = await spenders.set_limit()
        await ingest(database, spenders.admin.organization, make_row(usd(4)))

        changed = (await spenders.change(limit, amount={"amount": "5"})).json()

        assert usd_of(changed["remaining"]) == "1.00"
        assert [crossing["threshold"] for crossing in changed["crossings"]] == [50, 80]

    async def test_to_what_it_is_changes_nothing(self, spenders: Spenders) -> None:
        limit = await spenders.set_limit()
        before = await spenders.admin.get(f"{spenders.limits}/{limit['id']}")

        after = await spenders.change(limit, name=limit["name"])

        assert after.headers["ETag"] == before.headers["ETag"]
        assert after.json()["updated_at"] == limit["updated_at"]

    @pytest.mark.parametrize("field", ["name", "amount", "period", "scope", "enforcement", "thresholds"])
    async def test_refuses_null(self, spenders: Spenders, field: str) -> None:
        limit = await spenders.set_limit()

        assert (await spenders.change(limit, **{field: None})).status_code == 422

    async def test_of_what_is_not_there_finds_nothing(self, spenders: Spenders) -> None:
        limit = {"id": "0199a2b4-c6d8-7e01-a2b3-c4d5e6f70819"}

        assert refusal(await spenders.change(limit, name="x")) == (404, "not_found")


class TestETag:
    async def test_is_blind_to_what_is_spent(self, spenders: Spenders, database: Database) -> None:
        limit = await spenders.set_limit()
        path = f"{spenders.limits}/{limit['id']}"
        before = (await spenders.admin.get(path)).headers["ETag"]

        await ingest(database, spenders.admin.organization, make_row(usd(6)))
        await spenders.reserved("1")

        assert (await spenders.admin.get(path)).headers["ETag"] == before

    async def test_that_is_old_changes_nothing(self, spenders: Spenders) -> None:
        limit = await spenders.set_limit()
        old = {"If-Match": (await spenders.admin.get(f"{spenders.limits}/{limit['id']}")).headers["ETag"]}
        assert (await spenders.change(limit, name="Mine", headers=old)).status_code == 200

        assert refusal(await spenders.change(limit, name="Yours", headers=old)) == (
            412,
            "precondition_failed",
        )
        gone = await spenders.admin.request("DELETE", f"{spenders.limits}/{limit['id']}", headers=old)
        assert refusal(gone) == (412, "precondition_failed")
        assert (await spenders.limit(limit))["name"] == "Mine"


class TestDeleting:
    async def test_takes_it_away(self, spenders: Spenders, database: Database) -> None:
        limit = await spenders.set_limit()
        await ingest(database, spenders.admin.organization, make_row(usd(6)))
        path = f"{spenders.limits}/{limit['id']}"

        response = await spenders.admin.request("DELETE", path)

        assert response.status_code == 200
        assert response.json()["id"] == limit["id"]
        assert refusal(await spenders.admin.get(path)) == (404, "not_found")
        assert refusal(await spenders.admin.request("DELETE", path)) == (404, "not_found")


class TestListing:
    async def test_is_newest_first_in_pages(self, spenders: Spenders) -> None:
        made = [(await spenders.set_limit(name=f"Limit {n}"))["id"] for n in range(3)]

        first = await seen(spenders.admin, f"{spenders.limits}?limit=2")
        second = await seen(spenders.admin, f"{spenders.limits}?limit=2&page={first['next_page']}")

        assert [limit["id"] for limit in first["data"] + second["data"]] == made[::-1]
        assert not second["has_more"]

    async def test_is_of_one_organization(self, spenders: Spenders, make_tenant: MakeTenant) -> None:
        await spenders.set_limit()
        other = make_tenant()

        assert (await seen(other, f"{other.path}/spend-limits"))["data"] == []
        assert refusal(await other.get(spenders.limits)) == (404, "not_found")


class TestTrail:
    async def test_tells_who_set_changed_and_deleted(self, spenders: Spenders, owner: AsyncEngine) -> None:
        limit = await spenders.set_limit()
        await spenders.change(limit, amount={"amount": "20"})
        await spenders.admin.request("DELETE", f"{spenders.limits}/{limit['id']}")

        found = await fetch(
            owner,
            "SELECT action, details FROM audit_event WHERE organization_id = :organization ORDER BY id",
            organization=spenders.admin.organization,
        )

        assert [event["action"] for event in found] == [
            "spend_limit.created",
            "spend_limit.changed",
            "spend_limit.deleted",
        ]
        assert {event["details"]["spend_limit_id"] for event in found} == {limit["id"]}
        assert [event["details"]["amount"] for event in found] == ["10.00", "20.00", "20.00"]
