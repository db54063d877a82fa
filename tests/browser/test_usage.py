"""Bars, table and API say the same in every zone; BYO and managed are never one number; the CSV is byte for byte."""

import asyncio
import csv
import itertools
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from playwright.async_api import Route, expect

from tests.support.page.accessibility import inspect
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
    @pytest.mark.sampled(stride=3)
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


# Values of any size, and how the scale names its steps.
SCALES = {
    0.0000084: ["$0", "$0.0000025", "$0.000005", "$0.0000075", "$0.00001"],
    0.9: ["$0", "$0.25", "$0.50", "$0.75", "$1.00"],
    7.8: ["$0", "$2", "$4", "$6", "$8"],
    10: ["$0", "$2.50", "$5.00", "$7.50", "$10.00"],
    12_345: ["$0", "$5K", "$10K", "$15K"],
    8_999_999: ["$0", "$2.5M", "$5M", "$7.5M", "$10M"],
}
SCALE = """async (tallest) => {
  const { scaleOf } = await import("/billing/sections/chart.js");
  const { moneyMark } = await import("/billing/format.js");
  const { step, steps } = scaleOf(tallest, false);
  return Array.from({ length: steps + 1 }, (_, index) => moneyMark(index * step, step));
}"""
WHOLE_SCALE = """async (tallest) => {
  const { step, steps } = (await import("/billing/sections/chart.js")).scaleOf(tallest, true);
  return [step, steps];
}"""
# The middle of each mark, each line of the grid, and the height of each day's bars, in pixels from the bottom.
DRAWN = """() => {
  const chart = document.querySelector("pharaoh-byok").shadowRoot.querySelector(".chart");
  const bottom = chart.querySelector("svg").getBoundingClientRect().bottom;
  const above = (it) => { const box = it.getBoundingClientRect(); return bottom - (box.top + box.bottom) / 2; };
  return {
    marks: [...chart.querySelectorAll(".scale span")].map(above),
    lines: [...chart.querySelectorAll("line.grid")].map(above),
    bars: [...chart.querySelectorAll("g")].map((day) =>
      [...day.querySelectorAll("rect[data-series]")].reduce((sum, it) => sum + it.getBoundingClientRect().height, 0)),
  };
}"""


class TestScale:
    @pytest.mark.parametrize(("measure", "field"), [("cost", "billed_cost"), ("requests", "requests")])
    async def test_is_the_one_that_the_bars_are_drawn_to(
        self,
        used: Ledger,
        visits: Callable[..., Any],
        make_code: Callable[..., str],
        measure: str,
        field: str,
    ) -> None:
        visit: Visit = await visits(timezone_id="UTC")
        await open_usage(visit, make_code())
        await visit.field("Measure").select_option(measure)
        title = {"cost": "Cost in USD per day", "requests": "Requests per day"}[measure]
        await expect(visit.page.locator(".chart figcaption")).to_contain_text(title)
        days = await get_json(
            used.tenant,
            f"{used.tenant.path}/usage-report?bucket_width=1d&include_empty=true&group_by[]=usage_mode"
            f"&starting_at={(datetime.now(UTC) - timedelta(days=29)).strftime('%Y-%m-%dT00:00:00Z')}",
        )

        drawn = await visit.page.evaluate(DRAWN)
        texts = await visit.page.locator(".scale span").all_inner_texts()

        values = [float(it.removeprefix("$")) for it in texts]
        assert 3 <= len(values) <= 5
        assert values[-1] == 0
        steps = {round(high - low, 6) for high, low in itertools.pairwise(values)}
        assert len(steps) == 1
        assert drawn["marks"] == pytest.approx(drawn["lines"], abs=1)
        pixels = (drawn["lines"][0] - drawn["lines"][-1]) / values[0]
        expected = [
            sum(
                float(row["estimated_cost"]["amount"])
                if field == "billed_cost" and row["usage_mode"] == "byo"
                else float(row[field]["amount"] if field == "billed_cost" else row[field])
                for row in day["results"]
            )
            for day in days["data"]
        ]
        assert max(expected) > 0
        assert drawn["bars"] == pytest.approx([it * pixels for it in expected], abs=1)
        assert max(expected) <= values[0]

    async def test_is_hidden_from_readers_and_names_its_unit(
        self, used: Ledger, visits: Callable[..., Any], make_code: Callable[..., str]
    ) -> None:
        assert used.tenant.organization
        visit: Visit = await visits(timezone_id="UTC")
        await open_usage(visit, make_code())

        await expect(visit.page.locator(".scale")).to_have_attribute("aria-hidden", "true")
        await expect(visit.page.locator(".chart figcaption")).to_contain_text("Cost in USD per day, UTC.")
        await visit.field("Measure").select_option("output")
        await expect(visit.page.locator(".chart figcaption")).to_contain_text("Output tokens per day, UTC.")
        await expect(visit.page.locator(".scale span").first).to_have_text(re.compile(r"^\d+K$"))

    async def test_has_rounded_values_whatever_the_sum(self, visit: Visit) -> None:
        assert {it: await visit.page.evaluate(SCALE, it) for it in SCALES} == SCALES

    async def test_of_counts_has_whole_numbers(self, visit: Visit) -> None:
        found = {it: await visit.page.evaluate(WHOLE_SCALE, it) for it in (0, 1, 2, 3, 5, 9, 10, 101)}

        assert found == {
            0: [1, 1],
            1: [1, 1],
            2: [1, 2],
            3: [1, 3],
            5: [2, 3],
            9: [5, 2],
            10: [5, 2],
            101: [50, 3],
        }


class Held:
    """Responses that wait until they are released."""

    def __init__(self) -> None:
        self.asked, self._release = asyncio.Event(), asyncio.Event()

    async def __call__(self, route: Route) -> None:
        self.asked.set()
        await self._release.wait()
        await route.continue_()

    def release(self) -> None:
        self._release.set()


TOPS = """() => [...document.querySelector("pharaoh-byok").shadowRoot.querySelectorAll("section h2, .figures, .chart, .scroll")]
  .map((it) => it.getBoundingClientRect().top + scrollY)"""


@pytest.mark.usefixtures("used")
class TestWhileAnotherChoiceLoads:
    async def test_the_figures_before_stay_in_place_with_a_sign(
        self, visits: Callable[..., Any], make_code: Callable[..., str]
    ) -> None:
        visit: Visit = await visits()
        await open_usage(visit, make_code())
        reading, sign = visit.page.locator(".reading"), visit.page.locator(".sign").first
        before, tops = await reading.inner_text(), await visit.page.evaluate(TOPS)
        held = Held()
        await visit.page.route("**/usage-report?**", held)

        await visit.field("Stacked by").select_option("feature")

        await expect(visit.page.locator("[aria-busy=true]")).to_have_count(1)
        await expect(visit.page.locator("[aria-busy=true] .figures")).to_be_visible()
        await expect(sign).to_have_text("Loading…")
        await expect(sign).to_have_attribute("role", "status")
        await expect(sign.locator("span")).to_be_in_viewport()
        assert (
            await visit.page.locator("[aria-busy=true] .sign").count() == 0
        )  # readers wait inside of what is busy
        assert await reading.inner_text() == before
        assert await visit.page.evaluate(TOPS) == tops
        await inspect(visit, "usage, another choice is loading", is_loading=True)
        held.release()
        await expect(visit.page.locator("[aria-busy=true]")).to_have_count(0)
        await expect(sign).to_have_text("")
        await expect(reading).to_contain_text("feature 0 · Managed")

    async def test_the_rows_before_keep_their_names(
        self, visits: Callable[..., Any], make_code: Callable[..., str]
    ) -> None:
        visit: Visit = await visits()
        await open_usage(visit, make_code())
        held = Held()
        await visit.page.route("**/usage-report?**", held)

        await visit.page.get_by_role("table").get_by_role("button", name="chat", exact=True).click()

        await expect(visit.page.get_by_role("heading", name="By session")).to_be_focused()
        await expect(visit.page.get_by_text("Loading…")).to_have_count(2)
        table = visit.page.get_by_role("table", name="Feature, the most expensive first.")
        await expect(table.get_by_role("button", name="feature 1", exact=True)).to_be_visible()
        held.release()
        await expect(visit.page.get_by_role("table").get_by_role("button", name="s1")).to_be_visible()
        await expect(visit.page.get_by_text("Loading…")).to_have_count(0)

    async def test_and_fails_the_page_says_what_it_shows(
        self, visits: Callable[..., Any], make_code: Callable[..., str]
    ) -> None:
        visit: Visit = await visits()
        await open_usage(visit, make_code())
        await visit.page.route("**/usage-report?**", lambda route: route.abort())
        await visit.field("Stacked by").select_option("feature")

        await expect(visit.main.get_by_text("What is shown belongs to the choice before.")).to_be_visible()
        await expect(visit.page.locator("[aria-busy=true]")).to_have_count(0)
        await visit.page.unroute("**/usage-report?**")
        await visit.button("Try again").click()
        await expect(visit.page.locator(".reading")).to_contain_text("feature 0 · Managed")
        await expect(visit.main.get_by_text("What is shown belongs to the choice before.")).to_have_count(0)

    async def test_a_refresh_of_the_same_choice_shows_no_sign(
        self, visits: Callable[..., Any], make_code: Callable[..., str]
    ) -> None:
        visit: Visit = await visits()
        await open_usage(visit, make_code())
        held = Held()
        await visit.page.route("**/usage-report?**", held)
        await visit.refresh()
        await held.asked.wait()

        await expect(visit.page.locator("[aria-busy=true]")).to_have_count(0)
        held.release()
        await visit.page.unroute_all(behavior="wait")


@pytest.mark.usefixtures("used")
class TestFocus:
    async def test_moves_to_what_a_choice_shows(
        self, visits: Callable[..., Any], make_code: Callable[..., str]
    ) -> None:
        """The button that was pressed leaves the document with the table or the filter that it was in."""
        visit: Visit = await visits()
        await open_usage(visit, make_code())
        for value, heading in (("chat", "By session"), ("s1", "By prompt"), ("p1", "Requests")):
            button = visit.page.get_by_role("table").get_by_role("button", name=value, exact=True)
            await button.press("Enter")
            await expect(visit.page.get_by_role("heading", name=heading, exact=True)).to_be_focused()
            await expect(button).to_have_count(0)
        await visit.button("Back to the tables").press("Enter")
        await expect(visit.page.get_by_role("heading", name="By feature")).to_be_focused()
        await visit.button("Session: s1, remove this filter").press("Enter")
        await expect(visit.page.get_by_role("heading", name="Usage", exact=True)).to_be_focused()


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

    async def test_of_a_range_is_never_backwards(
        self, visits: Callable[..., Any], make_code: Callable[..., str]
    ) -> None:
        """Until the dates are a range again, the figures stay those of the last one, and the field shows which."""
        visit: Visit = await visits(timezone_id="UTC")
        await open_usage(visit, make_code())
        today = datetime.now(UTC).date()
        first = (today - timedelta(days=29)).isoformat()
        before, after, last = ((today + timedelta(days=it)).isoformat() for it in (-40, 5, 6))
        start, end = visit.field("From", exact=True), visit.field("To", exact=True)
        error = visit.main.get_by_text(f"Not a range. Shown: {first} to {today.isoformat()}.")
        await end.fill(before)
        await expect(error).to_be_visible()
        await expect(end).to_have_attribute("aria-invalid", "true")
        await end.fill("0202-01-01")  # a year that is not typed to its end
        await start.fill(after)
        await expect(error).to_be_visible()
        async with visit.page.expect_request(lambda it: f"starting_on={after}" in it.url):
            await end.fill(last)
        await expect(error).to_have_count(0)

        await expect(start).to_have_value(after)
        await expect(end).to_have_value(last)
        await expect(visit.page.get_by_role("alert")).to_have_count(0)
        assert not [it for it in visit.requests if before in it.url or "0202-01-01" in it.url]

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


# Where the text that follows a name begins, relative to the end of the name, in pixels.
AFTER_THE_NAME = """(name) => {
  const range = document.createRange();
  range.selectNodeContents((name.closest("strong") ?? name).nextSibling);
  return range.getClientRects()[0].left - name.getBoundingClientRect().right;
}"""
HEBREW = "מפתח 42"


class TestNames:
    async def test_that_are_long_leave_room_for_the_figures(
        self, ledger: Ledger, visits: Callable[..., Any], make_code: Callable[..., str]
    ) -> None:
        await ledger.accepted(event(feature="f" * 128, model="m" * 128))
        visit: Visit = await visits()
        await open_usage(visit, make_code())
        tables = visit.page.locator(".scroll")
        await visit.page.get_by_text("Table of the same numbers").click()

        hidden = "(all) => all.map((it) => it.scrollWidth - it.clientWidth)"
        assert await tables.evaluate_all(hidden) == [0, 0]

    async def test_that_are_written_from_the_right_do_not_move_the_figures(
        self, ledger: Ledger, visits: Callable[..., Any], make_code: Callable[..., str]
    ) -> None:
        limit = {"name": HEBREW, "amount": {"amount": "10", "currency": "USD"}, "period": "month"}
        assert (await ledger.tenant.post(f"{ledger.tenant.path}/spend-limits", json=limit)).status_code == 201
        await ledger.accepted(event(feature=HEBREW))
        visit: Visit = await visits()
        await visit.open(make_code())
        name = visit.main.locator("bdi", has_text=HEBREW)
        await expect(name).to_be_visible()
        assert await name.evaluate(AFTER_THE_NAME) >= -1
        await visit.section("Usage")
        await visit.field("Stacked by").select_option("feature")

        await expect(visit.page.locator(".reading")).to_contain_text(f"\u2068{HEBREW}\u2069 · Managed")

    async def test_are_legible_when_there_are_more_than_colors(
        self, ledger: Ledger, visits: Callable[..., Any], make_code: Callable[..., str]
    ) -> None:
        await ledger.accepted(*(event(feature=f"feature {it}") for it in range(26)))
        visit: Visit = await visits()
        await open_usage(visit, make_code())
        await visit.field("Stacked by").select_option("feature")

        await expect(visit.page.locator(".legend li")).to_have_count(24)
        await expect(visit.main.get_by_text("Colors repeat. The table has every part.")).to_be_visible()


class TestCosts:
    async def test_without_a_price_are_not_shown_as_free(
        self, ledger: Ledger, visits: Callable[..., Any], make_code: Callable[..., str]
    ) -> None:
        await ledger.accepted(event(feature="chat", model="unheard-of-1"))
        visit: Visit = await visits()
        await open_usage(visit, make_code())

        row = visit.page.get_by_role("row", name="chat")
        await expect(row).to_contain_text("$0.00 + 1 without a known price")

    async def test_of_all_others_name_what_they_leave_out(
        self, ledger: Ledger, visits: Callable[..., Any], make_code: Callable[..., str]
    ) -> None:
        await ledger.accepted(*(event(feature=f"feature {it}", usage=TOKENS) for it in range(52)))
        visit: Visit = await visits()
        await open_usage(visit, make_code())

        row = visit.page.get_by_role("row", name="all others")
        await expect(row).to_contain_text("Both")
        await expect(row).to_contain_text("$0.42 billed, without BYO")
