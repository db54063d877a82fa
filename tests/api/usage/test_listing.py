"""Listing the ledger: newest first, with pages and filters, and as CSV."""

import csv
import io
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest

from app.core.errors import DatabaseUnavailable
from app.core.services import Services
from app.database.unit_of_work import UnitsOfWork
from app.usage.listing import UsageListingService
from app.usage_reports.day_finder import RollupDayFinder
from tests.support.problems import assert_problem
from tests.support.requests.usage_events import Ledger, event, instant
from tests.support.service_builder import client_of

CSV = {"Accept": "text/csv"}


async def exported(ledger: Ledger, **filters: Any) -> list[dict[str, str]]:
    response = await ledger.tenant.get(ledger.path, params=filters, headers=CSV)
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/csv")
    return list(csv.DictReader(io.StringIO(response.text, newline="")))


class TestListUsageEvents:
    async def test_lists_newest_first_across_pages(self, ledger: Ledger) -> None:
        same = instant(minutes=30)
        sent = [event(started_at=instant(hours=hours)) for hours in (30, 2, 900 / 24, 1)]
        sent += [event(started_at=same, event_id=f"{name}-{'é' * 20}") for name in "bac"]
        await ledger.accepted(*sent)

        found: list[str] = []
        page = None
        while True:
            params: dict[str, Any] = {"limit": 2} | ({"page": page} if page else {})
            body = (await ledger.tenant.get(ledger.path, params=params)).json()
            found += [row["event_id"] for row in body["data"]]
            page = body["next_page"]
            assert body["has_more"] == (page is not None)
            if page is None:
                break

        expected = sorted(sent, key=lambda it: (it["started_at"], it["event_id"]), reverse=True)
        assert found == [it["event_id"] for it in expected]

    async def test_returns_an_empty_page_for_an_empty_ledger(self, ledger: Ledger) -> None:
        before = datetime.now(UTC)

        body = (await ledger.tenant.get(ledger.path)).json()

        data_as_of = datetime.fromisoformat(body.pop("data_as_of"))
        assert body == {"data": [], "has_more": False, "next_page": None}
        # The clock is that of the database, on the same machine.
        assert before - timedelta(seconds=1) <= data_as_of <= datetime.now(UTC) + timedelta(seconds=1)

    @pytest.mark.parametrize(
        "page", ["x", "AAAA", "", "é", "A" * 20, "_____________________w", "AAAAAAAAAAAAAAAAAAAA"]
    )
    async def test_rejects_invalid_cursors(self, ledger: Ledger, page: str) -> None:
        response = await ledger.tenant.get(ledger.path, params={"page": page})

        assert_problem(response, 422, "page_invalid")


class TestFilters:
    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("model", "claude-opus-5-5"),
            ("endpoint_id", "chat"),
            ("feature", "support"),
            ("session_id", "s-1"),
            ("prompt_id", "p-1"),
            ("outcome", "failed"),
        ],
    )
    async def test_finds_matching_rows(self, ledger: Ledger, name: str, value: str) -> None:
        wanted = event(**{name: value})
        await ledger.accepted(event(), wanted, event())

        assert [row["event_id"] for row in await ledger.rows(**{name: value})] == [wanted["event_id"]]
        assert [row["event_id"] for row in await exported(ledger, **{name: value})] == [wanted["event_id"]]

    async def test_finds_rows_of_a_time_from_inclusive_to_exclusive(self, ledger: Ledger) -> None:
        times = [instant(hours=hours) for hours in (3, 2, 1)]
        await ledger.accepted(*(event(started_at=at, event_id=at) for at in times))

        found = await ledger.rows(starting_at=times[0], ending_at=times[2])

        assert [row["event_id"] for row in found] == [times[1], times[0]]

    async def test_finds_rows_of_a_mode(self, ledger: Ledger) -> None:
        await ledger.accepted(event())

        assert len(await ledger.rows(usage_mode="managed")) == 1
        assert await ledger.rows(usage_mode="byo") == []

    async def test_combines_filters_with_and(self, ledger: Ledger) -> None:
        wanted = event(feature="a", session_id="s", outcome="failed")
        await ledger.accepted(wanted, event(feature="a"), event(session_id="s", outcome="failed"))

        found = await ledger.rows(feature="a", session_id="s", outcome="failed", starting_at=instant(hours=1))

        assert [row["event_id"] for row in found] == [wanted["event_id"]]

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("usage_mode", "free"),
            ("outcome", "done"),
            ("credential_id", "mine"),
            ("key_version", "0"),
            ("starting_at", "yesterday"),
            ("ending_at", "2026-11-23T14:05:06"),
            ("model", ""),
            ("session_id", "a\0b"),
            ("limit", "101"),
        ],
    )
    async def test_rejects_invalid_values(self, ledger: Ledger, name: str, value: str) -> None:
        response = await ledger.tenant.get(ledger.path, params={name: value})

        assert_problem(response, 422, "validation_failed")
        assert response.json()["errors"][0]["field"] == name

    @pytest.mark.parametrize("name", ["usage_mode[][]", "group_by[]", "modle", "order_by"])
    async def test_rejects_unknown_filters(self, ledger: Ledger, name: str) -> None:
        response = await ledger.tenant.get(ledger.path, params={name: "byo"})

        assert_problem(response, 422, "unknown_field")


class TestExportUsageEvents:
    async def test_exports_all_rows_and_ignores_the_limit(self, ledger: Ledger) -> None:
        await ledger.accepted(*(event(event_id=f"e-{number:04d}") for number in range(2500)))

        found = await exported(ledger, limit=1)

        assert len({row["event_id"] for row in found}) == 2500
        assert len(found) == 2500

    async def test_contains_the_fields_of_a_row(self, ledger: Ledger) -> None:
        sent = event(
            feature="a,b",
            usage={"cache_creation_input_tokens": 9, "output_tokens": 3},
            reservation_id=str(uuid4()),
        )
        await ledger.accepted(sent)

        (found,) = await exported(ledger)
        row = await ledger.row(sent["event_id"])

        assert found["feature"] == "a,b"
        assert found["started_at"] == row["started_at"]
        assert found["flags"] == "cache_ttl_assumed"
        amounts = [row[name]["amount"] for name in ("estimated_cost", "billed_cost")]
        assert [found["estimated_cost"], found["billed_cost"], found["currency"]] == [*amounts, "USD"]
        assert (found["ephemeral_5m_input_tokens"], found["output_tokens"]) == ("9", "3")
        assert found["reservation_id"] == sent["reservation_id"]
        nested = {"cache_creation", "estimated_cost", "billed_cost"}
        assert set(row) - nested <= set(found)

    async def test_escapes_formulas(self, ledger: Ledger) -> None:
        await ledger.accepted(event(event_id="=1+1", feature="@x", session_id="-2", endpoint_id="+3"))

        (found,) = await exported(ledger)

        assert [found[name] for name in ("event_id", "feature", "session_id", "endpoint_id")] == [
            "'=1+1",
            "'@x",
            "'-2",
            "'+3",
        ]

    async def test_is_only_a_header_for_an_empty_ledger(self, ledger: Ledger) -> None:
        response = await ledger.tenant.get(ledger.path, headers=CSV)

        assert re.fullmatch(r"event_id,.*,reservation_id,corrects,corrected_by\r\n", response.text)

    async def test_fails_before_the_response_starts_if_the_database_is_down(
        self, ledger: Ledger, services: Services
    ) -> None:
        class Down(UnitsOfWork):
            def reading_in_bulk(self, organization_id: str) -> Any:  # noqa: ARG002  # signature of UnitsOfWork
                raise DatabaseUnavailable

        listing = UsageListingService(
            Down(services[UsageListingService]._units._database),
            services[UsageListingService]._admission,
            RollupDayFinder(),
        )
        async with client_of(services.replacing(listing)) as http:
            response = await replace(ledger.tenant, http=http).get(ledger.path, headers=CSV)

        assert_problem(response, 503, "database_unavailable")

    async def test_names_the_file_after_the_organization(self, ledger: Ledger) -> None:
        response = await ledger.tenant.get(ledger.path, headers={"Accept": "text/csv;q=0.9, */*;q=0.1"})

        assert f"usage-events-{ledger.tenant.organization}.csv" in response.headers["content-disposition"]
        assert response.headers["cache-control"] == "no-store"


class TestPermissions:
    async def test_requires_the_scope(self, ledger: Ledger, make_token: Any) -> None:
        token = make_token(organization=ledger.tenant.organization, scopes=frozenset({"usage:write"}))

        response = await ledger.tenant.http.get(ledger.path, headers={"Authorization": f"Bearer {token}"})

        assert_problem(response, 403, "insufficient_scope")
