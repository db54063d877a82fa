"""Usage reports as CSV, and parameters that make no sense."""

from uuid import uuid4

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from app.database.engine import Database
from tests.api.reporting import report
from tests.conftest import Tenant
from tests.ledger import event, ingest, make_room
from tests.report_oracle import Asked, utc


@pytest.fixture(scope="module", autouse=True)
async def _room(owner: AsyncEngine) -> None:
    await make_room(owner, utc(2026, 1, 1), utc(2027, 1, 31))


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
        assert (
            f"usage-report-{tenant.organization}.csv" in response.headers.get("Content-Disposition", "")
        ) == is_csv


class TestParameters:
    @pytest.mark.parametrize("name", ["group_by", "model", "granularity", "sk-ant-api03-a-key"])
    async def test_that_are_unknown_are_refused_and_not_repeated(self, tenant: Tenant, name: str) -> None:
        query = {"starting_at": "2026-05-01T00:00:00Z", name: "model"}

        response = await tenant.get(f"{tenant.path}/usage-report", params=query)

        assert (response.status_code, response.json()["code"]) == (422, "unknown_field")
        assert response.json()["errors"][0]["field"] == "query"

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
