"""Filters of the ledger listing: those of the report, by several values and by none, and by id."""

import csv
import io
import random
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.core.services import Services
from app.database.engine import Database
from app.usage_reports.rollup_worker import RollupWorker
from tests.support.database.ledger import Event, create_partitions, ingest
from tests.support.database.ledger import event as row
from tests.support.oracles.report import ReportParameters, expected, utc
from tests.support.problems import assert_problem
from tests.support.requests.usage_events import Ledger, event, instant
from tests.support.requests.usage_reports import STARTS, random_event, random_parameters
from tests.support.tenant import Tenant

IGNORED = ("bucket_width", "group_by[]", "order_by", "top")


@pytest.fixture(scope="module", autouse=True)
async def _partitions(superuser: AsyncEngine) -> None:
    await create_partitions(superuser, utc(2026, 1, 1), utc(2027, 1, 31))


async def all_pages(tenant: Tenant, query: dict[str, Any], limit: int) -> list[str]:
    found: list[str] = []
    page: str | None = None
    while True:
        response = await tenant.get(
            f"{tenant.path}/usage-events", params=query | {"limit": limit} | ({"page": page} if page else {})
        )
        assert response.status_code == 200, response.text
        body = response.json()
        assert len(body["data"]) <= limit
        found += [it["event_id"] for it in body["data"]]
        page = body["next_page"]
        if page is None:
            return found


def matching(events: list[Event], parameters: ReportParameters) -> list[str]:
    """Return the ids of the events that the report's oracle counts, newest first."""
    whole = ReportParameters(
        starting_at=parameters.starting_at,
        ending_at=parameters.ending_at,
        bucket_width="all",
        filters=parameters.filters,
        without=parameters.without,
    )
    ordered = sorted(events, key=lambda it: (it.started_at, it.event_id), reverse=True)
    return [it.event_id for it in ordered if expected([it], whole)]


class TestFilters:
    @pytest.mark.sampled(stride=4)
    @pytest.mark.parametrize("seed", range(8))
    async def test_list_what_the_report_counts(
        self, tenant: Tenant, database: Database, services: Services, seed: int
    ) -> None:
        chance = random.Random(seed)
        start, length = chance.choice(STARTS), timedelta(hours=chance.choice((9, 60, 24 * 40)))
        events: list[Event] = []
        for _ in range(3):
            new_events = [random_event(chance, start, length) for _ in range(chance.randrange(1, 60))]
            await ingest(database, tenant.organization, *new_events)
            events += new_events
            if chance.random() < 0.6:
                await services[RollupWorker].roll_up(tenant.organization)

            for _ in range(8):
                parameters = random_parameters(chance, start, length)
                query = {name: value for name, value in parameters.query.items() if name not in IGNORED}
                wanted = matching(events, parameters)

                assert await all_pages(tenant, query, chance.choice((1, 3, 20, 100))) == wanted, parameters
                exported = await tenant.get(f"{tenant.path}/usage-events.csv", params=query)
                rows = csv.DictReader(io.StringIO(exported.text, newline=""))
                assert [it["event_id"] for it in rows] == wanted

    async def test_take_one_value_or_several(self, ledger: Ledger) -> None:
        await ledger.accepted(*(event(feature=it, event_id=it) for it in "abc"))

        assert {it["event_id"] for it in await ledger.rows(**{"feature[]": ["a", "b"]})} == {"a", "b"}
        assert {it["event_id"] for it in await ledger.rows(feature="a", **{"feature[]": "c"})} == {"a", "c"}

    async def test_find_events_by_id(self, ledger: Ledger) -> None:
        wanted = event(event_id="e-1", provider_request_id="req_1")
        await ledger.accepted(wanted, event(provider_request_id="req_2"), event())

        for filters in (
            {"event_id": "e-1"},
            {"provider_request_id": "req_1"},
            {"event_id": "e-1", "provider_request_id": "req_1", "outcome": "succeeded"},
        ):
            assert [it["event_id"] for it in await ledger.rows(**filters)] == ["e-1"]
        assert await ledger.rows(event_id="e-2") == []
        assert await ledger.rows(event_id="e-1", provider_request_id="req_2") == []

    async def test_find_every_model_that_worked_on_an_event(self, ledger: Ledger) -> None:
        advisor = {
            "type": "advisor_message",
            "model": "claude-opus-4-7",
            "input_tokens": 5,
            "output_tokens": 1,
        }
        usage = {"input_tokens": 1, "output_tokens": 1, "iterations": [{"type": "message"}, advisor]}
        await ledger.accepted(event(event_id="e-1", usage=usage))

        assert [it["part"] for it in await ledger.rows(event_id="e-1")] == [1, 0]

    async def test_find_rows_that_cancel_others_across_pages(self, ledger: Ledger) -> None:
        sent = event(event_id="e-1", feature="x")
        await ledger.accepted(sent, event())
        await ledger.accepted(sent | {"event_id": "e-2", "corrects": "e-1"})

        assert sorted(await all_pages(ledger.tenant, {"feature[]": "x"}, 1)) == ["e-1", "e-1", "e-2"]
        assert len(await all_pages(ledger.tenant, {}, 1)) == 4

    async def test_find_events_before_and_after_they_are_rolled_up(
        self, tenant: Tenant, database: Database, services: Services
    ) -> None:
        """The rollup of a day may know some rows of a value, and the unaggregated rows others of another day."""
        at = utc(2026, 5, 5, 23, 59)
        await ingest(
            database, tenant.organization, *(row(at - timedelta(days=n), feature="x") for n in (0, 9))
        )
        await services[RollupWorker].roll_up(tenant.organization)
        await ingest(
            database, tenant.organization, row(at - timedelta(days=4), feature="x"), row(at, feature="y")
        )

        assert len(await all_pages(tenant, {"feature[]": "x"}, 1)) == 3

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("event_id", "a\0b"),
            ("event_id", "x" * 65),
            ("provider_request_id", "x" * 129),
            ("feature", "\u200b"),
        ],
    )
    async def test_reject_values_that_no_event_has(self, ledger: Ledger, name: str, value: str) -> None:
        response = await ledger.tenant.get(ledger.path, params={name: value})

        assert_problem(response, 422, "validation_failed")
        assert response.json()["errors"][0]["field"] == name

    async def test_of_the_export_have_brackets(self, ledger: Ledger) -> None:
        response = await ledger.tenant.get(f"{ledger.path}.csv", params={"feature": "a"})

        assert_problem(response, 422, "unknown_field")


class TestNormalizedDimensions:
    async def test_are_found_in_any_spelling(self, ledger: Ledger) -> None:
        await ledger.accepted(event(feature=" Cafe\u0301\u200b", session_id="s\u3000"))

        for feature in ("Caf\u00e9", "Cafe\u0301", "\ufeffCaf\u00e9 "):
            (found,) = await ledger.rows(feature=feature, session_id=" s")
            assert (found["feature"], found["session_id"]) == ("Caf\u00e9", "s")

    async def test_are_counted_by_limits_in_any_spelling(self, ledger: Ledger) -> None:
        limits = f"{ledger.tenant.path}/spend-limits"
        scope = {"feature": "Cafe\u0301 ", "model": "claude-haiku-5-5"}
        body = {
            "name": "Café",
            "amount": {"amount": "1", "currency": "USD"},
            "period": "total",
            "scope": scope,
            "enforcement": "notify",
        }
        await ledger.accepted(event(feature="Caf\u00e9", usage={"input_tokens": 1000}))
        created = await ledger.tenant.post(limits, json=body)
        await ledger.accepted(
            event(feature="\u200bCafe\u0301", usage={"input_tokens": 1000}, started_at=instant())
        )

        assert created.status_code == 201, created.text
        assert created.json()["scope"]["feature"] == "Caf\u00e9"
        before = created.json()["spent"]["amount"]
        after = (await ledger.tenant.get(f"{limits}/{created.json()['id']}")).json()["spent"]["amount"]
        assert (float(before) > 0, float(after)) == (True, 2 * float(before))

    async def test_do_not_include_models(self, ledger: Ledger) -> None:
        other = "claude-haiku-5-5 "
        limit = {
            "name": "x",
            "amount": {"amount": "1", "currency": "USD"},
            "period": "total",
            "scope": {"model": "claude-haiku-5-5"},
            "enforcement": "notify",
        }
        created = await ledger.tenant.post(f"{ledger.tenant.path}/spend-limits", json=limit)
        await ledger.accepted(event(model=other, usage={"input_tokens": 1000}, started_at=instant()))

        (found,) = await ledger.rows(model=other)
        assert (found["model"], found["estimated_cost"]) == (other, None)
        assert await ledger.rows(model="claude-haiku-5-5") == []
        path = f"{ledger.tenant.path}/spend-limits/{created.json()['id']}"
        assert (await ledger.tenant.get(path)).json()["spent"]["amount"] == "0.00"

    @pytest.mark.parametrize("feature", ["\u200b", "\u3164", " ", "\u2800\u00ad"], ids=ascii)
    async def test_are_rejected_everywhere_if_nothing_is_visible(self, ledger: Ledger, feature: str) -> None:
        limit = {
            "name": "x",
            "amount": {"amount": "1", "currency": "USD"},
            "period": "day",
            "scope": {"feature": feature},
            "enforcement": "notify",
        }

        assert await ledger.rejected(event(feature=feature)) == "invalid_feature"
        assert (await ledger.tenant.get(ledger.path, params={"feature": feature})).status_code == 422
        response = await ledger.tenant.post(f"{ledger.tenant.path}/spend-limits", json=limit)
        assert (response.status_code, response.json()["errors"][0]["field"]) == (422, "scope.feature")
