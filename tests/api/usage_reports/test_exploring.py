"""Reports for exploring usage: first groups and the rest, calendar dates, empty buckets, usage without a value."""

import csv
import io
import random
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.core.services import Services
from app.database.engine import Database
from app.usage_reports.rollup_worker import RollupWorker
from tests.support.database.ledger import create_partitions, event, ingest
from tests.support.oracles.report import ReportParameters, expected, parse_report, utc
from tests.support.problems import assert_problem
from tests.support.requests.usage_reports import STARTS, random_event, report
from tests.support.tenant import Tenant

AT = utc(2026, 5, 5)
PICO = 10**12


@pytest.fixture(scope="module", autouse=True)
async def _partitions(superuser: AsyncEngine) -> None:
    await create_partitions(superuser, utc(2026, 1, 1), utc(2027, 1, 31))


async def reported(tenant: Tenant, **parameters: Any) -> dict[str, Any]:
    response = await tenant.get(f"{tenant.path}/usage-report", params=parameters)
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


def results(found: dict[str, Any]) -> list[list[dict[str, Any]]]:
    return [bucket["results"] for bucket in found["data"]]


class TestRanking:
    async def test_shows_the_first_groups_and_the_rest_as_one(
        self, tenant: Tenant, database: Database
    ) -> None:
        costs = {"a": 1, "b": 7, "c": 3, "d": 2, None: 4}
        await ingest(
            database, tenant.organization, *(event(AT, feature=it, cost=n * PICO) for it, n in costs.items())
        )

        found = await reported(
            tenant, starting_at=AT.isoformat(), bucket_width="all", top=2, **{"group_by[]": "feature"}
        )

        (rows,) = results(found)
        assert [
            (it["feature"], it["other"], it["estimated_cost"]["amount"], it["requests"]) for it in rows
        ] == [
            ("b", False, "7.00", 1),
            (None, False, "4.00", 1),
            (None, True, "6.00", 3),
        ]

    async def test_has_no_rest_if_all_groups_are_shown(self, tenant: Tenant, database: Database) -> None:
        await ingest(database, tenant.organization, *(event(AT, feature=it) for it in "ab"))

        found = await reported(tenant, starting_at=AT.isoformat(), top=2, **{"group_by[]": "feature"})

        assert [it["other"] for it in results(found)[0]] == [False, False]

    async def test_shows_the_same_groups_in_every_bucket(self, tenant: Tenant, database: Database) -> None:
        next_day = AT + timedelta(days=1)
        await ingest(
            database,
            tenant.organization,
            *(event(AT, feature=it, output_tokens=n) for it, n in (("a", 1), ("b", 90))),
            *(event(next_day, feature=it, output_tokens=n) for it, n in (("a", 100), ("b", 2), ("c", 50))),
        )

        found = await reported(
            tenant,
            starting_at=AT.isoformat(),
            top=2,
            order_by="-output_tokens",
            **{"group_by[]": "feature"},
        )

        assert [[(it["feature"], it["other"]) for it in rows] for rows in results(found)] == [
            [("b", False), ("a", False)],
            [("a", False), ("b", False), (None, True)],
        ]

    @pytest.mark.parametrize(("limit", "width"), [(1, "1d"), (2, "1h"), (5, "1d")])
    @pytest.mark.parametrize("top", [None, 1, 3])
    @pytest.mark.parametrize("order_by", [None, "-requests", "estimated_cost"])
    async def test_pages_together_are_the_whole_report(
        self,
        tenant: Tenant,
        database: Database,
        services: Services,
        limit: int,
        width: str,
        top: int | None,
        order_by: str,
    ) -> None:
        chance = random.Random(limit)
        start, length = STARTS[0], timedelta(days=4)
        events = [random_event(chance, start, length) for _ in range(40)]
        await ingest(database, tenant.organization, *events[:20])
        await services[RollupWorker].roll_up(tenant.organization)
        await ingest(database, tenant.organization, *events[20:])
        parameters = ReportParameters(
            starting_at=start,
            ending_at=start + length,
            bucket_width=width,
            group_by=["feature", "flag"],
            order_by=order_by,
            top=top,
        )

        found, page = [], None
        while True:
            part = await report(tenant, parameters, limit=limit, **({"page": page} if page else {}))
            found += parse_report(part, parameters)
            assert sum(len(rows) for rows in results(part)) <= limit
            page = part["next_page"]
            if page is None:
                break

        assert found == expected(events, parameters)

    async def test_pages_repeat_nothing_and_keep_the_groups_during_ingestion(
        self, tenant: Tenant, database: Database
    ) -> None:
        await ingest(
            database,
            tenant.organization,
            *(event(AT, feature=it, output_tokens=n) for it, n in (("a", 9), ("b", 8), ("c", 7), ("d", 6))),
        )
        parameters = ReportParameters(
            starting_at=AT, ending_at=utc(2026, 5, 6), group_by=["feature"], order_by="-output_tokens", top=3
        )

        first = await report(tenant, parameters, limit=1)
        # Now `d` is larger than every other group, and `a`, which was shown, is even larger.
        await ingest(
            database,
            tenant.organization,
            *(event(AT, feature=it, output_tokens=n) for it, n in (("d", 50), ("a", 100))),
        )
        rest = await report(tenant, parameters, limit=9, page=first["next_page"])

        shown = [(it["feature"], it["other"], it["output_tokens"]) for it in results(rest)[0]]
        assert shown == [("b", False, 8), ("c", False, 7), (None, True, 56)]

    async def test_cursors_that_were_changed_are_rejected(self, tenant: Tenant, database: Database) -> None:
        await ingest(database, tenant.organization, *(event(AT, feature=it) for it in "abc"))
        parameters = ReportParameters(
            starting_at=AT, ending_at=utc(2026, 5, 6), group_by=["feature"], order_by="requests"
        )
        page = (await report(tenant, parameters, limit=1))["next_page"]

        for changed in (page[:76], page + "AA", page[:-4]):
            response = await tenant.get(
                f"{tenant.path}/usage-report", params=parameters.query | {"page": changed}
            )
            assert (response.status_code, response.json()["code"]) == (422, "page_invalid")


class TestCalendarDates:
    @pytest.mark.parametrize(
        ("zone", "day", "start", "end"),
        [
            ("UTC", "2026-05-05", utc(2026, 5, 5), utc(2026, 5, 6)),
            ("Asia/Kolkata", "2026-05-05", utc(2026, 5, 4, 18, 30), utc(2026, 5, 5, 18, 30)),
            ("America/New_York", "2026-03-08", utc(2026, 3, 8, 5), utc(2026, 3, 9, 4)),
            ("Europe/Berlin", "2026-10-25", utc(2026, 10, 24, 22), utc(2026, 10, 25, 23)),
        ],
    )
    async def test_are_whole_days_of_the_zone_and_include_the_last(
        self, tenant: Tenant, database: Database, zone: str, day: str, start: datetime, end: datetime
    ) -> None:
        moment = timedelta(microseconds=1)
        await ingest(
            database, tenant.organization, *(event(it) for it in (start - moment, start, end - moment, end))
        )
        days = {"starting_on": day, "ending_on": day, "time_zone": zone}

        found = await reported(tenant, **days)
        rows = (await tenant.get(f"{tenant.path}/usage-events", params=days)).json()["data"]
        exported = await tenant.get(f"{tenant.path}/usage-events.csv", params=days)

        assert [it["requests"] for it in results(found)[0]] == [2]
        assert [datetime.fromisoformat(found["data"][0][it]) for it in ("starting_at", "ending_at")] == [
            start,
            end,
        ]
        assert [datetime.fromisoformat(it["started_at"]) for it in rows] == [end - moment, start]
        assert len(exported.text.splitlines()) == 3

    async def test_a_day_that_the_zone_skipped_is_empty(self, tenant: Tenant, database: Database) -> None:
        await ingest(database, tenant.organization, event(AT))

        found = await reported(
            tenant, starting_on="2011-12-30", ending_on="2011-12-30", time_zone="Pacific/Apia"
        )

        assert found["data"] == []

    async def test_may_be_mixed_with_a_time_at_the_other_end(
        self, tenant: Tenant, database: Database
    ) -> None:
        await ingest(database, tenant.organization, event(AT), event(AT + timedelta(hours=2)))

        found = await reported(tenant, starting_on="2026-05-05", ending_at="2026-05-05T01:00:00Z")

        assert [it["requests"] for it in results(found)[0]] == [1]


class TestEmptyBuckets:
    async def test_are_included_on_request(self, tenant: Tenant, database: Database) -> None:
        await ingest(database, tenant.organization, event(utc(2026, 5, 5)), event(utc(2026, 5, 8, 3)))
        days = {"starting_on": "2026-05-03", "ending_on": "2026-05-10"}

        without = await reported(tenant, **days)
        found = await reported(tenant, include_empty=True, **days)

        assert [len(rows) for rows in results(without)] == [1, 1]
        assert [len(rows) for rows in results(found)] == [0, 0, 1, 0, 0, 1, 0, 0]
        starts = [bucket["starting_at"] for bucket in found["data"]]
        assert starts == [f"2026-05-{day:02}T00:00:00Z" for day in range(3, 11)]
        assert [it["ending_at"] for it in found["data"]] == [*starts[1:], "2026-05-11T00:00:00Z"]

    async def test_are_included_for_an_organization_without_usage(self, tenant: Tenant) -> None:
        found = await reported(
            tenant, starting_on="2026-05-03", ending_on="2026-05-04", include_empty=True, bucket_width="1h"
        )

        assert results(found) == [[]] * 48

    @pytest.mark.parametrize("limit", [1, 2, 3, 100])
    async def test_appear_once_on_pages_and_in_csv(
        self, tenant: Tenant, database: Database, limit: int
    ) -> None:
        days = (2, 2, 3, 6, 9)
        await ingest(
            database,
            tenant.organization,
            *(event(utc(2026, 5, day), feature=f"f{n}") for n, day in enumerate(days)),
        )
        query = {
            "starting_on": "2026-05-01",
            "ending_on": "2026-05-12",
            "include_empty": True,
            "group_by[]": "feature",
        }

        shown: list[tuple[str, int]] = []
        page = None
        while True:
            part = await reported(tenant, **query, limit=limit, **({"page": page} if page else {}))
            shown += [(bucket["starting_at"][:10], len(bucket["results"])) for bucket in part["data"]]
            page = part["next_page"]
            if page is None:
                break
        exported = await tenant.get(f"{tenant.path}/usage-report.csv", params=query)

        found = {day: sum(n for it, n in shown if it == day) for day, _ in shown}
        assert found == {f"2026-05-{day:02}": days.count(day) for day in range(1, 13)}
        assert [it for it, n in shown if n == 0] == [it for it, n in found.items() if n == 0]
        rows = list(csv.DictReader(io.StringIO(exported.text)))
        assert [(it["starting_at"][:10], it["requests"], it["feature"]) for it in rows] == [
            (day, "1" if n else "0", f"f{number}" if n else "")
            for day, n in found.items()
            for number in ([at for at, it in enumerate(days) if it == int(day[-2:])] or [0])
        ]
        assert {len(line.split(",")) for line in exported.text.splitlines()} == {len(rows[0])}

    async def test_are_limited_in_number(self, tenant: Tenant) -> None:
        response = await tenant.get(
            f"{tenant.path}/usage-report",
            params={
                "starting_on": "1971-01-01",
                "ending_on": "9990-01-01",
                "bucket_width": "1h",
                "include_empty": True,
            },
        )

        assert response.status_code == 422
        (error,) = response.json()["errors"]
        assert (error["field"], error["code"]) == ("include_empty", "too_many_buckets")


class TestStart:
    @pytest.mark.parametrize("export", ["", ".csv"])
    async def test_is_required_like_any_other_field(self, tenant: Tenant, export: str) -> None:
        response = await tenant.get(f"{tenant.path}/usage-report{export}")

        assert_problem(response, 422, "validation_failed")
        (error,) = response.json()["errors"]
        assert (error["field"], error["code"]) == ("starting_at", "required")


class TestDimensions:
    async def test_a_request_counts_once_for_each_of_its_flags(
        self, tenant: Tenant, database: Database, services: Services
    ) -> None:
        await ingest(database, tenant.organization, *(event(AT, flags=it) for it in (0, 1, 3, 2)))
        await services[RollupWorker].roll_up(tenant.organization)

        found = await reported(tenant, starting_at=AT.isoformat(), **{"group_by[]": "flag"})

        assert [(it["flag"], it["requests"]) for it in results(found)[0]] == [
            (None, 1),
            ("cache_ttl_assumed", 2),
            ("mode_mismatch", 2),
        ]

    async def test_none_is_found_and_may_be_combined_with_values(
        self, tenant: Tenant, database: Database
    ) -> None:
        await ingest(database, tenant.organization, *(event(AT, feature=it) for it in (None, "a", "b")))
        query = {"starting_at": AT.isoformat(), "group_by[]": "feature", "without[]": "feature"}

        none = await reported(tenant, **query)
        none_or_a = await reported(tenant, **query, **{"feature[]": "a"})

        assert [it["feature"] for it in results(none)[0]] == [None]
        assert [it["feature"] for it in results(none_or_a)[0]] == [None, "a"]

    @pytest.mark.parametrize("stored", ["Cafe\u0301", " Caf\u00e9", "Caf\u00e9"], ids=ascii)
    @pytest.mark.parametrize("is_rolled_up", [True, False])
    async def test_stored_by_an_earlier_release_are_found_by_what_was_sent(
        self, tenant: Tenant, database: Database, services: Services, stored: str, is_rolled_up: bool
    ) -> None:
        await ingest(database, tenant.organization, event(AT, feature=stored), event(AT, feature="Cafe"))
        if is_rolled_up:
            await services[RollupWorker].roll_up(tenant.organization)

        for sent in {stored, stored.strip(), "Cafe\u0301 "} if stored.startswith("C") else {stored}:
            found = await reported(
                tenant, starting_at=AT.isoformat(), **{"feature[]": sent, "group_by[]": "feature"}
            )
            listed = await tenant.get(f"{tenant.path}/usage-events", params={"feature": sent})
            assert [it["feature"] for it in results(found)[0]] == [stored]
            assert [it["feature"] for it in listed.json()["data"]] == [stored]


class TestExport:
    async def test_is_the_response_for_clients_that_accept_csv(
        self, tenant: Tenant, database: Database
    ) -> None:
        await ingest(database, tenant.organization, *(event(AT, feature=f"f{n}", cost=n) for n in range(30)))
        query = {"starting_at": AT.isoformat(), "group_by[]": ["feature"], "top": 7}

        old = await tenant.get(f"{tenant.path}/usage-report", params=query, headers={"Accept": "text/csv"})
        new = await tenant.get(f"{tenant.path}/usage-report.csv", params=query)

        assert new.status_code == 200
        assert new.text == old.text
        assert new.headers["content-type"] == old.headers["content-type"]
        assert new.headers["content-disposition"] == old.headers["content-disposition"]
        assert [line.rsplit(",", 1)[1] for line in new.text.splitlines()] == ["other", *["false"] * 7, "true"]

    @pytest.mark.parametrize("name", ["limit", "page", "group_by"])
    async def test_rejects_parameters_of_pages(self, tenant: Tenant, name: str) -> None:
        response = await tenant.get(
            f"{tenant.path}/usage-report.csv", params={"starting_at": AT.isoformat(), name: "1"}
        )

        assert (response.status_code, response.json()["code"]) == (422, "unknown_field")
