"""Usage reports as CSV, and invalid parameters."""

from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from app.database.engine import Database
from tests.support.database.ledger import create_partitions, event, ingest
from tests.support.oracles.report import ReportParameters, utc
from tests.support.requests.usage_reports import report
from tests.support.tenant import Tenant


@pytest.fixture(scope="module", autouse=True)
async def _partitions(superuser: AsyncEngine) -> None:
    await create_partitions(superuser, utc(2026, 1, 1), utc(2027, 1, 31))


class TestUsageReportCsv:
    async def test_contains_every_row_and_escapes_formulas(self, tenant: Tenant, database: Database) -> None:
        at = utc(2026, 5, 5)
        features = ["=1+1", "+1", "-1", "@x", "\tx", "\rx", 'a "b", c', "plain", None]
        await ingest(
            database,
            tenant.organization,
            *(event(at, feature=it, output_tokens=9, cost=3) for it in features),
        )
        parameters = ReportParameters(starting_at=at, ending_at=utc(2026, 5, 6), group_by=["feature"])

        response = await tenant.get(
            f"{tenant.path}/usage-report", params=parameters.query, headers={"Accept": "text/csv"}
        )

        assert response.headers["Content-Type"].startswith("text/csv")
        header, *lines = response.text.removesuffix("\r\n").split("\r\n")
        assert header.startswith("starting_at,ending_at,usage_mode,model,endpoint_id,feature")
        assert lines[0] == (
            "2026-05-05T00:00:00Z,2026-05-06T00:00:00Z,,,,,,,,,,1,0,0,0,0,9,0,USD,0.000000000003,"
            "0.000000000003,0,,,,,,false"
        )
        cells = [line.split(",,,,")[1].split(",,,,,")[0] for line in lines[1:]]
        assert cells == [
            *("'\tx", '"\'\rx"', "'+1", "'-1", "'=1+1", "'@x"),
            *('"a ""b"", c"', "plain"),
        ]

    async def test_continues_past_the_largest_page(self, tenant: Tenant, superuser: AsyncEngine) -> None:
        async with superuser.begin() as connection:
            await connection.execute(
                sa.text(
                    "INSERT INTO usage_event SELECT :organization, '2026-05-05Z', 'e' || n, 0, null, now(), 1,"
                    " 'managed', null, null, 'm', null, 'f' || n, null, null, 'succeeded', 'reported', null, null,"
                    " null, 0, 0, 0, 0, 0, 0, 0, 0, null, 0, null, null FROM generate_series(1, 10050) n"
                ),
                {"organization": tenant.organization},
            )
        parameters = ReportParameters(
            starting_at=utc(2026, 5, 5), ending_at=utc(2026, 5, 6), group_by=["feature"]
        )
        path, headers = f"{tenant.path}/usage-report", {"Accept": "text/csv"}

        whole = (await tenant.get(path, params=parameters.query, headers=headers)).text.splitlines()
        cut = await tenant.get(path, params=parameters.query | {"limit": 7}, headers=headers)

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
    async def test_is_returned_if_the_client_prefers_it(
        self, tenant: Tenant, accept: str, is_csv: bool
    ) -> None:
        response = await tenant.get(
            f"{tenant.path}/usage-report?starting_at=2026-05-05T00:00:00Z", headers={"Accept": accept}
        )

        assert response.headers["Content-Type"].startswith("text/csv") == is_csv
        assert (
            f"usage-report-{tenant.organization}.csv" in response.headers.get("Content-Disposition", "")
        ) == is_csv


class TestCompleteness:
    @pytest.mark.parametrize("path", ["usage-report.csv", "usage-events.csv"])
    async def test_states_up_to_when_the_file_is_complete(self, tenant: Tenant, path: str) -> None:
        before = datetime.now(UTC)

        response = await tenant.get(f"{tenant.path}/{path}?starting_at=2026-05-01T00:00:00Z")

        as_of = datetime.fromisoformat(response.headers["Data-As-Of"])
        assert before - timedelta(seconds=1) <= as_of <= datetime.now(UTC) + timedelta(seconds=1)
        assert response.headers["Data-As-Of"].endswith("Z")


class TestParameters:
    @pytest.mark.parametrize("name", ["group_by", "model", "granularity", "sk-ant-api03-a-key"])
    async def test_unknown_names_are_rejected_and_not_repeated(self, tenant: Tenant, name: str) -> None:
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
            ("time_zone", "localtime", "time_zone_invalid"),
            ("time_zone", "Factory", "time_zone_invalid"),
            ("time_zone", "posixrules", "time_zone_invalid"),
            ("ending_on", "2026-04-30", "range_invalid"),
            ("starting_on", "2026-05-01", "range_invalid"),
            ("ending_on", "2026-13-01", "invalid_format"),
            ("ending_on", "20260501", "invalid_format"),
            ("ending_on", "2026-05-01T00:00:00Z", "invalid_format"),
            ("ending_on", "1777593600", "invalid_format"),
            ("ending_on", "0001-01-01", "invalid"),
            ("ending_on", "9999-12-31", "invalid"),
            ("include_empty", "maybe", "invalid"),
            ("order_by", "tokens", "invalid_format"),
            ("order_by", "--requests", "invalid_format"),
            ("order_by", "requests\n", "invalid_format"),
            ("top", "0", "too_small"),
            ("top", "101", "too_large"),
            ("without[]", "model", "invalid_choice"),
            ("flag[]", "unknown", "invalid_choice"),
            ("usage_source[]", "guessed", "invalid_choice"),
            ("feature[]", "", "text_blank"),
            ("feature[]", "\u200b\u3164", "text_blank"),
            ("service_tier[]", " ", "text_blank"),
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
    async def test_invalid_values_are_rejected(
        self, tenant: Tenant, field: str, value: str, code: str
    ) -> None:
        query = {"starting_at": "2026-05-01T00:00:00Z", field: value}

        response = await tenant.get(f"{tenant.path}/usage-report", params=query)

        assert response.status_code == 422
        assert [(error["field"], error["code"]) for error in response.json()["errors"]] == [(field, code)]

    @pytest.mark.parametrize("name", ["starting_at", "ending_at"])
    @pytest.mark.parametrize("path", ["usage-report", "usage-report.csv", "usage-events", "usage-events.csv"])
    async def test_a_plus_sign_that_was_not_encoded_is_explained(
        self, tenant: Tenant, path: str, name: str
    ) -> None:
        sent = f"{name}=2026-05-05T00:00:00+02:00"
        start = "" if name == "starting_at" else "&starting_at=2026-05-01T00:00:00Z"

        lost = await tenant.get(f"{tenant.path}/{path}?{sent}{start}")
        encoded = await tenant.get(f"{tenant.path}/{path}?{sent.replace('+', '%2B')}{start}")

        assert lost.status_code == 422
        (error,) = lost.json()["errors"]
        assert (error["field"], error["code"]) == (name, "invalid_format")
        assert "`%2B`" in error["message"]
        assert encoded.status_code == 200

    async def test_starting_at_is_required(self, tenant: Tenant) -> None:
        response = await tenant.get(f"{tenant.path}/usage-report")

        assert response.status_code == 422
        assert response.json()["errors"][0]["field"] == "starting_at"

    async def test_repeated_values_count_once(self, tenant: Tenant, database: Database) -> None:
        at = utc(2026, 5, 5)
        await ingest(database, tenant.organization, event(at, credential_id=uuid4()))
        parameters = ReportParameters(starting_at=at, ending_at=utc(2026, 5, 6), group_by=["model", "model"])

        assert len((await report(tenant, parameters))["data"][0]["results"]) == 1
