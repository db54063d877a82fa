"""Usage reports: exact at every moment, in every zone, whatever is folded and what is not."""

import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from app.core.database import Database
from app.services import Services
from tests.conftest import MakeTenant, MakeToken, Tenant
from tests.ledger import Event, event, ingest, make_room
from tests.report_oracle import DIMENSIONS, Asked, expected, told, utc

ZONES = (
    *("UTC", "America/New_York", "Europe/Berlin", "Asia/Kolkata", "Asia/Kathmandu", "Australia/Lord_Howe"),
    *("America/Havana", "Africa/Cairo", "America/St_Johns", "Pacific/Apia", "Pacific/Chatham"),
)
CREDENTIALS = [UUID(int=number) for number in (7, 8)]
WIDTHS = ("1h", "1d", "1mo", "all")
# Around changes of clocks on both sides of the world, in 2026.
STARTS = [
    utc(2026, 3, 7, 4),
    utc(2026, 3, 28, 22),
    utc(2026, 4, 3, 14),
    utc(2026, 10, 3, 14),
    utc(2026, 10, 24, 23),
    utc(2026, 10, 31, 23),
]


@pytest.fixture(scope="module", autouse=True)
async def _room(owner: AsyncEngine) -> None:
    await make_room(owner, utc(2026, 1, 1), utc(2027, 1, 31))


async def report(tenant: Tenant, asked: Asked, **more: Any) -> dict[str, Any]:
    response = await tenant.get(f"{tenant.path}/usage-report", params=asked.parameters | more)
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


def random_event(chance: random.Random, start: datetime, length: timedelta) -> Event:
    at = start + timedelta(microseconds=chance.randrange(length // timedelta(microseconds=1)))
    if chance.random() < 0.2:
        at = at.replace(minute=chance.choice((0, 15, 30, 45)), second=0, microsecond=0)
    mode = chance.choice(("managed", "byo"))
    return event(
        at,
        mode=mode,
        model=chance.choice(("claude-haiku-4-5", "claude-opus-4-1", "gateway/Ünïcode")),
        endpoint_id=chance.choice((None, "endpoint_a", "endpoint_b")),
        feature=chance.choice((None, "", "a", "B", "é", "=1+1")),
        session_id=chance.choice((None, "s1", "s2")),
        prompt_id=chance.choice((None, "p1")),
        credential_id=chance.choice(CREDENTIALS) if mode == "byo" else None,
        key_version=chance.choice((1, 2)) if mode == "byo" else None,
        outcome=chance.choice(("succeeded", "failed", "aborted")),
        uncached_input_tokens=chance.randrange(10**9),
        cache_write_5m_tokens=chance.randrange(1000),
        cache_write_1h_tokens=chance.randrange(1000),
        cache_read_tokens=chance.randrange(2**62),
        output_tokens=chance.randrange(10**5),
        web_search_requests=chance.randrange(3),
        cost=chance.choice((None, 0, 5500, chance.randrange(10**18), 9 * 10**18)),
    )


def corrections(chance: random.Random, events: Sequence[Event]) -> list[Event]:
    """Prices for some of those that had none; to some of them, more than one row."""
    found = []
    for it in events:
        if it.cost is None and chance.random() < 0.5:
            same = {
                name: getattr(it, name) for name in ("mode", "model", "endpoint_id", "feature", "outcome")
            }
            same |= {
                name: getattr(it, name)
                for name in ("session_id", "prompt_id", "credential_id", "key_version")
            }
            found += [
                event(
                    it.started_at,
                    event_id=it.event_id,
                    correction=number,
                    cost=chance.randrange(10**12),
                    **same,
                )
                for number in range(1, chance.choice((2, 3)))
            ]
    return found


def random_question(chance: random.Random, start: datetime, length: timedelta) -> Asked:
    since = start + length * chance.uniform(-0.2, 0.5)
    until = since + length * chance.uniform(0.01, 1)
    if chance.random() < 0.5:
        since, until = (
            it.replace(minute=0, second=0, microsecond=0) for it in (since, until + timedelta(hours=1))
        )
    some = chance.sample(DIMENSIONS, chance.choice((0, 1, 2, 2, 3, 9)))
    if chance.random() < 0.3:
        some = [name for name in some if name in {"usage_mode", "model"}]
    values: dict[str, list[Any]] = {
        "usage_mode": ["byo"],
        "model": ["claude-haiku-4-5", "unheard-of"],
        "endpoint_id": ["endpoint_a"],
        "feature": ["", "é"],
        "session_id": ["s1"],
        "prompt_id": ["p1"],
        "credential_id": CREDENTIALS[:1],
        "key_version": [2],
        "outcome": ["failed", "aborted"],
    }
    filtered = chance.sample(sorted(values), chance.choice((0, 0, 1, 2)))
    return Asked(
        starting_at=since,
        ending_at=until,
        bucket_width=chance.choice(WIDTHS),
        time_zone=chance.choice(ZONES),
        group_by=some,
        filters={name: values[name] for name in filtered},
    )


class TestReport:
    @pytest.mark.parametrize("seed", range(12))
    async def test_is_what_one_event_after_the_other_adds_up_to(
        self, tenant: Tenant, database: Database, services: Services, seed: int
    ) -> None:
        chance = random.Random(seed)
        start, length = chance.choice(STARTS), timedelta(hours=chance.choice((9, 60, 24 * 40)))
        events: list[Event] = []
        for _ in range(3):
            fresh = [random_event(chance, start, length) for _ in range(chance.randrange(1, 60))]
            fresh += corrections(
                chance, [*events, *fresh] if not any(it.correction for it in events) else fresh
            )
            await ingest(database, tenant.organization, *fresh)
            events += fresh
            if chance.random() < 0.6:
                await services.folding.fold(tenant.organization)

            for _ in range(8):
                asked = random_question(chance, start, length)
                found = await report(tenant, asked)

                assert told(found, asked) == expected(events, asked), asked
                assert not found["has_more"]

    @pytest.mark.parametrize("width", WIDTHS)
    @pytest.mark.parametrize("zone", ZONES)
    async def test_cuts_buckets_by_the_clock_of_the_zone(
        self, tenant: Tenant, database: Database, services: Services, zone: str, width: str
    ) -> None:
        events = [event(start + timedelta(minutes=15 * number)) for start in STARTS for number in range(24)]
        await ingest(database, tenant.organization, *events)
        await services.folding.fold(tenant.organization)
        asked = Asked(
            starting_at=utc(2026, 3, 1), ending_at=utc(2026, 11, 20), bucket_width=width, time_zone=zone
        )

        found = await report(tenant, asked)

        assert told(found, asked) == expected(events, asked)

    async def test_knows_days_of_23_and_25_hours(self, tenant: Tenant, database: Database) -> None:
        events = [event(utc(2026, 3, 8, 12)), event(utc(2026, 11, 1, 12))]
        await ingest(database, tenant.organization, *events)
        asked = Asked(starting_at=utc(2026, 3, 1), ending_at=utc(2026, 11, 20), time_zone="America/New_York")

        found = (await report(tenant, asked))["data"]

        assert [(bucket["starting_at"], bucket["ending_at"]) for bucket in found] == [
            ("2026-03-08T05:00:00Z", "2026-03-09T04:00:00Z"),
            ("2026-11-01T04:00:00Z", "2026-11-02T05:00:00Z"),
        ]

    async def test_holds_what_was_just_accepted_and_says_as_of_when(
        self, tenant: Tenant, database: Database
    ) -> None:
        before = datetime.now(UTC)
        await ingest(database, tenant.organization, event(before - timedelta(seconds=5), cost=7))

        response = await tenant.get(
            f"{tenant.path}/usage-report", params={"starting_at": (before - timedelta(hours=1)).isoformat()}
        )

        found = response.json()
        assert sum(result["requests"] for bucket in found["data"] for result in bucket["results"]) == 1
        assert datetime.fromisoformat(found["data_as_of"]) >= before - timedelta(seconds=1)
        assert found["data"][-1]["ending_at"] <= found["data_as_of"]

    async def test_bills_nothing_of_the_organizations_own_key(
        self, tenant: Tenant, database: Database, services: Services
    ) -> None:
        at = utc(2026, 5, 5)
        await ingest(
            database, tenant.organization, event(at, mode="byo", cost=10**12), event(at, cost=10**12)
        )
        await services.folding.fold(tenant.organization)
        asked = Asked(starting_at=at, ending_at=utc(2026, 5, 6), group_by=["usage_mode"])

        byo, managed = (await report(tenant, asked))["data"][0]["results"]

        assert (byo["usage_mode"], byo["estimated_cost"]["amount"], byo["billed_cost"]["amount"]) == (
            *("byo", "1.00", "0.00"),
        )
        assert (managed["estimated_cost"], managed["billed_cost"]) == (
            {"amount": "1.00", "currency": "USD"},
        ) * 2

    async def test_is_empty_where_there_is_nothing(self, tenant: Tenant) -> None:
        asked = Asked(starting_at=utc(1970, 1, 1), ending_at=utc(9998, 1, 1), bucket_width="1h")

        found = await report(tenant, asked)

        assert (found["data"], found["has_more"], found["next_page"]) == ([], False, None)

    async def test_of_all_of_history_by_the_hour_looks_where_there_is_something(
        self, tenant: Tenant, database: Database
    ) -> None:
        await ingest(database, tenant.organization, event(utc(2026, 5, 5, 3, 20)))
        asked = Asked(starting_at=utc(1970, 1, 1), ending_at=utc(9998, 1, 1), bucket_width="1h")

        found = await report(tenant, asked)

        assert [bucket["starting_at"] for bucket in found["data"]] == ["2026-05-05T03:00:00Z"]

    async def test_shows_nothing_of_other_organizations(
        self, make_tenant: MakeTenant, database: Database
    ) -> None:
        await ingest(database, make_tenant().organization, event(utc(2026, 5, 5)))
        asked = Asked(starting_at=utc(2026, 5, 1), ending_at=utc(2026, 6, 1))

        assert (await report(make_tenant(), asked))["data"] == []

    async def test_needs_its_scope(self, tenant: Tenant, make_token: MakeToken) -> None:
        token = make_token("ci", tenant.organization, scopes=["billing:read"])

        response = await tenant.http.get(
            f"{tenant.path}/usage-report?starting_at=2026-05-01T00:00:00Z",
            headers={"Authorization": f"Bearer {token}"},
        )

        assert (response.status_code, response.json()["code"]) == (403, "insufficient_scope")


class TestPages:
    @pytest.mark.parametrize("limit", [1, 3, 1000])
    async def test_put_together_are_the_whole(
        self, tenant: Tenant, database: Database, services: Services, limit: int
    ) -> None:
        chance = random.Random(limit)
        start, length = STARTS[0], timedelta(days=4)
        events = [random_event(chance, start, length) for _ in range(40)]
        await ingest(database, tenant.organization, *events[:20])
        await services.folding.fold(tenant.organization)
        await ingest(database, tenant.organization, *events[20:])
        asked = Asked(
            starting_at=start + timedelta(hours=5, minutes=7),
            ending_at=start + length,
            time_zone="Europe/Berlin",
            group_by=["feature", "outcome", "credential_id"],
        )

        found, page = [], None
        while True:
            part = await report(tenant, asked, limit=limit, **({"page": page} if page else {}))
            found += told(part, asked)
            assert sum(len(bucket["results"]) for bucket in part["data"]) <= limit
            assert part["has_more"] == (part["next_page"] is not None)
            page = part["next_page"]
            if page is None:
                break

        assert found == expected(events, asked)

    async def test_stay_apart_while_events_come_in(self, tenant: Tenant, database: Database) -> None:
        at = utc(2026, 5, 5)
        await ingest(database, tenant.organization, *(event(at, feature=f"f{n}") for n in (2, 4, 6)))
        asked = Asked(starting_at=at, ending_at=utc(2026, 5, 6), group_by=["feature"])

        first = await report(tenant, asked, limit=2)
        await ingest(database, tenant.organization, *(event(at, feature=f"f{n}") for n in (1, 3, 5)))
        last = await report(tenant, asked, limit=9, page=first["next_page"])

        shown = [[r["feature"] for b in part["data"] for r in b["results"]] for part in (first, last)]
        assert shown == [["f2", "f4"], ["f5", "f6"]]

    async def test_of_a_report_until_now_end_where_the_first_did(
        self, tenant: Tenant, database: Database
    ) -> None:
        now = datetime.now(UTC)
        await ingest(database, tenant.organization, *(event(now, feature=name) for name in "ab"))
        query = {
            "starting_at": (now - timedelta(days=1)).isoformat(),
            "bucket_width": "all",
            "group_by[]": "feature",
            "limit": 1,
        }
        path = f"{tenant.path}/usage-report"

        first = (await tenant.get(path, params=query)).json()
        await ingest(database, tenant.organization, event(datetime.now(UTC), feature="b"))
        last = (await tenant.get(path, params=query | {"page": first["next_page"]})).json()

        assert last["data"][0]["ending_at"] == first["data"][0]["ending_at"]
        assert [result["requests"] for result in last["data"][0]["results"]] == [1]

    async def test_of_another_question_are_refused(self, tenant: Tenant, database: Database) -> None:
        at = utc(2026, 5, 5)
        await ingest(database, tenant.organization, *(event(at, feature=name) for name in "abc"))
        asked = Asked(starting_at=at, ending_at=utc(2026, 5, 6), group_by=["feature"])
        page = (await report(tenant, asked, limit=1))["next_page"]

        for changed in ({"group_by[]": "model"}, {"time_zone": "Asia/Tokyo"}, {"feature[]": "a"}):
            response = await tenant.get(
                f"{tenant.path}/usage-report", params=asked.parameters | changed | {"page": page}
            )
            assert (response.status_code, response.json()["code"]) == (422, "page_invalid")


class TestCsv:
    async def test_holds_every_row_and_no_formula(self, tenant: Tenant, database: Database) -> None:
        at = utc(2026, 5, 5)
        features = ["=1+1", "+1", "-1", "@x", "\tx", "\rx", 'a "b", c', "plain", None]
        await ingest(
            database,
            tenant.organization,
            *(event(at, feature=it, output_tokens=9, cost=3) for it in features),
        )
        asked = Asked(starting_at=at, ending_at=utc(2026, 5, 6), group_by=["feature"])

        response = await tenant.get(
            f"{tenant.path}/usage-report", params=asked.parameters, headers={"Accept": "text/csv"}
        )

        assert response.headers["Content-Type"].startswith("text/csv")
        header, *lines = response.text.removesuffix("\r\n").split("\r\n")
        assert header.startswith("starting_at,ending_at,usage_mode,model,endpoint_id,feature")
        assert lines[0] == (
            "2026-05-05T00:00:00Z,2026-05-06T00:00:00Z,,,,,,,,,,1,0,0,0,0,9,0,USD,0.000000000003,"
            "0.000000000003,0"
        )
        cells = [line.split(",,,,")[1].split(",,,,,")[0] for line in lines[1:]]
        assert cells == [
            *("'\tx", '"\'\rx"', "'+1", "'-1", "'=1+1", "'@x"),
            *('"a ""b"", c"', "plain"),
        ]

    async def test_goes_on_past_the_longest_page(self, tenant: Tenant, owner: AsyncEngine) -> None:
        async with owner.begin() as connection:
            await connection.execute(
                sa.text(
                    "INSERT INTO usage_event SELECT :organization, '2026-05-05Z', 'e' || n, 0, null, now(), 1,"
                    " 'managed', null, null, 'm', null, 'f' || n, null, null, 'succeeded', 'reported', null, null,"
                    " null, 0, 0, 0, 0, 0, 0, 0, 0, null, 0, null, null FROM generate_series(1, 10050) n"
                ),
                {"organization": tenant.organization},
            )
        asked = Asked(starting_at=utc(2026, 5, 5), ending_at=utc(2026, 5, 6), group_by=["feature"])
        path, headers = f"{tenant.path}/usage-report", {"Accept": "text/csv"}

        whole = (await tenant.get(path, params=asked.parameters, headers=headers)).text.splitlines()
        cut = await tenant.get(path, params=asked.parameters | {"limit": 7}, headers=headers)

        assert len(set(whole)) == len(whole) == 10051
        assert len(cut.text.splitlines()) == 8

    @pytest.mark.parametrize(
        ("accept", "is_csv"),
        [
            ("text/csv", True),
            ("text/csv, application/json;q=0.5", True),
            ("application/json, text/csv", False),
            ("text/csv;q=0.1, application/json", False),
            ("text/csv;q=0", False),
            ("text/csv;q=x", False),
            ("*/*", False),
        ],
    )
    async def test_is_answered_to_those_who_prefer_it(
        self, tenant: Tenant, accept: str, is_csv: bool
    ) -> None:
        response = await tenant.get(
            f"{tenant.path}/usage-report?starting_at=2026-05-05T00:00:00Z", headers={"Accept": accept}
        )

        assert response.headers["Content-Type"].startswith("text/csv") == is_csv


class TestParameters:
    @pytest.mark.parametrize(
        ("field", "value", "code"),
        [
            ("starting_at", "yesterday", "invalid_format"),
            ("starting_at", "2026-05-05T00:00:00", "invalid_format"),
            ("starting_at", "0001-01-01T00:00:00+23:59", "invalid"),
            ("ending_at", "9999-12-31T23:59:59-23:59", "invalid"),
            ("ending_at", "2026-05-01T00:00:00Z", "range_invalid"),
            ("ending_at", "2026-04-01T00:00:00Z", "range_invalid"),
            ("bucket_width", "1w", "invalid_choice"),
            ("time_zone", "Mars/Olympus", "time_zone_invalid"),
            ("time_zone", "../../etc/passwd", "time_zone_invalid"),
            ("time_zone", "\0", "time_zone_invalid"),
            ("time_zone", "", "time_zone_invalid"),
            ("group_by[]", "tokens", "invalid_choice"),
            ("usage_mode[]", "free", "invalid_choice"),
            ("model[]", "a\0b", "invalid_format"),
            ("session_id[]", "x" * 257, "too_long"),
            ("credential_id[]", "x", "invalid_format"),
            ("key_version[]", "0", "too_small"),
            ("key_version[]", str(2**31), "too_large"),
            ("key_version[]", "one", "invalid_type"),
            ("outcome[]", "unknown", "invalid_choice"),
            ("limit", "0", "too_small"),
            ("limit", "10001", "too_large"),
            ("page", "x", "page_invalid"),
            ("page", "A" * 76, "page_invalid"),
            ("page", "_" * 76, "page_invalid"),
            ("page", "ü", "page_invalid"),
        ],
    )
    async def test_that_make_no_sense_are_refused(
        self, tenant: Tenant, field: str, value: str, code: str
    ) -> None:
        query = {"starting_at": "2026-05-01T00:00:00Z", field: value}

        response = await tenant.get(f"{tenant.path}/usage-report", params=query)

        assert response.status_code == 422
        assert [(error["field"], error["code"]) for error in response.json()["errors"]] == [(field, code)]

    async def test_without_a_start_are_refused(self, tenant: Tenant) -> None:
        response = await tenant.get(f"{tenant.path}/usage-report")

        assert response.status_code == 422
        assert response.json()["errors"][0]["field"] == "starting_at"

    async def test_given_twice_count_once(self, tenant: Tenant, database: Database) -> None:
        at = utc(2026, 5, 5)
        await ingest(database, tenant.organization, event(at, credential_id=uuid4()))
        asked = Asked(starting_at=at, ending_at=utc(2026, 5, 6), group_by=["model", "model"])

        assert len((await report(tenant, asked))["data"][0]["results"]) == 1
