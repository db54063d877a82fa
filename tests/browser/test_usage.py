"""Bars, table and API say the same in every zone; BYO and managed are never one number; the CSV is byte for byte."""

import csv
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from playwright.async_api import Route, expect

from tests.support.page.browser import Visit
from tests.support.requests.rotation import get_json
from tests.support.requests.usage_events import Ledger, event, instant
from tests.support.requests.usage_mode import switch_mode

TOKENS = {"input_tokens": 120_000, "output_tokens": 60_000}


@pytest.fixture
async def used(ledger: Ledger) -> Ledger:
    """Managed usage over three weeks, then BYO usage of one session."""
    tenant, hours = ledger.tenant, range(0, 21 * 24, 5)
    await ledger.accepted(
        *(event(usage=TOKENS, feature=f"feature {it % 3}", started_at=instant(hours=it)) for it in hours)
    )
    created = await tenant.created()
    await switch_mode(tenant, {"mode": "byo", "credential_id": created["id"]})
    of_session = {"usage": TOKENS, "feature": "chat", "session_id": "s1"}
    await ledger.accepted(
        *(event(**of_session, prompt_id=f"p{it}", started_at=instant(seconds=-2)) for it in range(3))
    )
    return ledger


async def open_usage(visit: Visit, code: str) -> None:
    await visit.open(code)
    await visit.section("Usage")
    await expect(visit.page.locator("[aria-busy=true]")).to_have_count(0)


async def table_rows(visit: Visit) -> list[list[str]]:
    await visit.page.get_by_text("Table of the same numbers").click()
    rows = visit.page.get_by_role("table", name="Usage per day").locator("tbody tr")
    return [await row.locator("th, td").all_inner_texts() for row in await rows.all()]


class TestDays:
    @pytest.mark.parametrize(
        "zone", ["UTC", "Europe/Berlin", "Asia/Kolkata", "Pacific/Apia", "America/Havana"]
    )
    async def test_are_those_of_the_api_in_the_zone(
        self, used: Ledger, visits: Callable[..., Any], make_code: Callable[..., str], zone: str
    ) -> None:
        visit: Visit = await visits(timezone_id=zone)
        await open_usage(visit, make_code())

        shown = await table_rows(visit)

        today = datetime.now(ZoneInfo(zone)).date()
        path = f"{used.tenant.path}/usage-report?bucket_width=1d&time_zone={zone}&group_by[]=usage_mode"
        since = (datetime.now(UTC) - timedelta(days=29)).strftime("%Y-%m-%dT00:00:00Z")
        report = await get_json(used.tenant, f"{path}&starting_at={since}")
        expected = [
            (
                datetime.fromisoformat(bucket["starting_at"]).astimezone(ZoneInfo(zone)).date().isoformat(),
                {"managed": "Managed", "byo": "BYO key"}[row["usage_mode"]],
                f"{row['requests']}",
            )
            for bucket in report["data"]
            for row in bucket["results"]
        ]
        assert [(row[0].removesuffix(" (so far)"), row[1], row[3]) for row in shown] == expected
        assert {row[0] for row in shown if row[0].endswith("(so far)")} == {f"{today} (so far)"}
        bars = await visit.page.locator(".chart rect[data-series]").count()
        assert bars == len(expected)


class TestFigures:
    async def test_of_byo_and_managed_are_apart(
        self, used: Ledger, visits: Callable[..., Any], make_code: Callable[..., str]
    ) -> None:
        visit: Visit = await visits()
        await open_usage(visit, make_code())
        since = instant(days=29)
        report = await get_json(
            used.tenant,
            f"{used.tenant.path}/usage-report?bucket_width=all&group_by[]=usage_mode&starting_at={since}",
        )
        costs = {
            row["usage_mode"]: float(
                (row["estimated_cost"] if row["usage_mode"] == "byo" else row["billed_cost"])["amount"]
            )
            for row in report["data"][0]["results"]
        }
        text = await visit.main.inner_text()

        await expect(visit.page.locator(".figure.byo strong")).to_have_text(f"${costs['byo']:,.2f}")
        await expect(visit.page.locator(".figure.managed strong")).to_have_text(f"${costs['managed']:,.2f}")
        assert f"${costs['byo'] + costs['managed']:,.2f}" not in text
        assert "BYO usage is an estimate at list prices: your invoice comes from Anthropic." in text


@pytest.mark.usefixtures("used")
class TestQuestion:
    async def test_of_another_range_zone_part_and_measure_is_asked(
        self, visits: Callable[..., Any], make_code: Callable[..., str]
    ) -> None:
        visit: Visit = await visits(timezone_id="UTC")
        await open_usage(visit, make_code())
        first = datetime.now(UTC).date() - timedelta(days=2)
        reading, days = visit.page.locator(".reading"), visit.page.locator(".chart .hit")
        await visit.field("From", exact=True).fill(first.isoformat())
        await expect(days).to_have_count(3)
        await visit.field("To", exact=True).fill(first.isoformat())
        await expect(days).to_have_count(1)
        await visit.field("Stacked by").select_option("feature")
        await expect(reading).to_contain_text("feature 0 · Managed")
        await visit.field("Measure").select_option("requests")
        await expect(reading).to_contain_text("request")
        await visit.field("Measure").select_option("output")
        await expect(reading).to_contain_text("0K tokens")
        await visit.field("Measure").select_option("input")
        await expect(reading).to_contain_text("0K tokens")
        await visit.field("Time zone").select_option("Asia/Tokyo")

        await expect(visit.page.get_by_text("per day, Asia/Tokyo").first).to_be_visible()

    async def test_without_a_feature_is_a_filter_too(
        self, visits: Callable[..., Any], make_code: Callable[..., str], used: Ledger
    ) -> None:
        await used.accepted(event(feature=None, started_at=instant(seconds=-3)))
        visit: Visit = await visits()
        await open_usage(visit, make_code())
        table = visit.page.get_by_role("table", name="Feature, the most expensive first.")
        await table.get_by_role("button", name="(none)").click()
        await visit.field("Break down by").select_option("usage_mode")

        modes = visit.page.get_by_role("table", name="Mode, the most expensive first.")
        await expect(modes.locator("tbody tr")).to_have_count(1)
        await expect(modes).to_contain_text("BYO key")


@pytest.mark.usefixtures("used")
class TestDrillDown:
    async def test_leads_from_a_feature_to_its_requests(
        self, visits: Callable[..., Any], make_code: Callable[..., str]
    ) -> None:
        visit: Visit = await visits()
        await open_usage(visit, make_code())
        for heading, value in (("By feature", "chat"), ("By session", "s1"), ("By prompt", "p1")):
            await expect(visit.page.get_by_role("heading", name=heading)).to_be_visible()
            await visit.page.get_by_role("table").get_by_role("button", name=value, exact=True).click()

        table = visit.page.get_by_role("table", name="1 request, newest first")
        await expect(table.locator("tbody tr")).to_have_count(1)
        await expect(table).to_contain_text("p1")


class TestCsv:
    async def test_is_that_of_the_api_byte_for_byte(
        self, used: Ledger, visits: Callable[..., Any], make_code: Callable[..., str]
    ) -> None:
        visit: Visit = await visits()
        await open_usage(visit, make_code())
        async with visit.page.expect_download() as started:
            await visit.button("Download as CSV").click()
        path = await (await started.value).path()

        (asked,) = [it for it in visit.requests if it.url.partition("?")[0].endswith(".csv/links")]
        url = asked.url.removeprefix(visit.origin).replace(".csv/links", ".csv")
        response = await used.tenant.get(url)
        assert path.read_bytes() == response.content
        assert response.content.count(b"\n") > 10

    @pytest.mark.usefixtures("used")
    async def test_of_single_requests_has_the_filters_of_the_page(
        self, visits: Callable[..., Any], make_code: Callable[..., str]
    ) -> None:
        visit: Visit = await visits()
        await open_usage(visit, make_code())
        for value in ("chat", "s1", "p1"):
            await visit.page.get_by_role("table").get_by_role("button", name=value, exact=True).click()
        section = visit.page.locator("section", has=visit.page.get_by_role("heading", name="Requests"))
        async with visit.page.expect_download() as started:
            await section.last.get_by_role("button", name="Download as CSV").click()
        lines = (await (await started.value).path()).read_text(encoding="utf-8").splitlines()

        rows = list(csv.DictReader(lines))
        assert [(row["feature"], row["session_id"], row["prompt_id"]) for row in rows] == [
            ("chat", "s1", "p1")
        ]

    @pytest.mark.usefixtures("used")
    async def test_is_saved_by_the_browser_and_not_read_by_the_page(
        self, visits: Callable[..., Any], make_code: Callable[..., str]
    ) -> None:
        visit: Visit = await visits()
        await open_usage(visit, make_code())
        async with visit.page.expect_download() as started:
            await visit.button("Download as CSV").click()
        download = await started.value
        await download.path()

        assert "/exports/" in download.url
        assert [it.resource_type for it in visit.requests if "/exports/" in it.url] in ([], ["document"])
        assert [it for it in visit.requests if it.headers.get("accept") == "text/csv"] == []

    async def test_that_cannot_be_sent_leaves_the_page_as_it_is(
        self, used: Ledger, visits: Callable[..., Any], make_code: Callable[..., str]
    ) -> None:
        visit: Visit = await visits()
        await open_usage(visit, make_code())

        async def use_up(route: Route) -> None:
            response = await route.fetch()
            opened = await used.tenant.get((await response.json())["path"])
            assert opened.status_code == 200
            await route.fulfill(response=response)

        await visit.page.route("**/usage-report.csv/links*", use_up)
        async with visit.page.expect_download() as started:
            await visit.button("Download as CSV").click()

        assert await (await started.value).failure() is not None
        await expect(visit.page.get_by_role("heading", name="Usage", exact=True)).to_be_visible()
        assert len(visit.page.context.pages) == 1
