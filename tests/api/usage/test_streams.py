"""NDJSON ingestion: committed in chunks, with an exact report of what was committed before a failure."""

import asyncio
import gzip
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine
from starlette.requests import ClientDisconnect

from app.core.admission import AdmissionQueue
from app.core.errors import DatabaseUnavailable, IngestionOverloaded
from app.core.services import Services
from app.database.engine import Database
from app.database.unit_of_work import UnitOfWork, UnitsOfWork
from app.usage.body_reader import RequestIngestion
from app.usage.service import IngestionService
from tests.support.database.rows import fetch
from tests.support.polling import until
from tests.support.problems import assert_problem
from tests.support.requests.usage_events import NDJSON, Ledger, event, lines
from tests.support.service_builder import client_of
from tests.support.usage.unpriced_ingestion import NoLimits, NoPrices

LINE_LIMIT = 64 * 1024


class FailingUnits(UnitsOfWork):
    """A database that becomes unavailable after a number of units of work."""

    def __init__(self, database: Database, *, after: int) -> None:
        super().__init__(database)
        self._left = after

    @asynccontextmanager
    async def writing_with_shared_lock(
        self, organization_id: str, *, has_few_rows: bool | None = None
    ) -> AsyncIterator[UnitOfWork]:
        self._left -= 1
        if self._left < 0:
            raise DatabaseUnavailable
        async with super().writing_with_shared_lock(organization_id, has_few_rows=has_few_rows) as uow:
            yield uow


def _queue(limit: int, *, queue_timeout_seconds: float, max_waiting: int) -> AdmissionQueue:
    return AdmissionQueue(
        limit,
        queue_timeout_seconds=queue_timeout_seconds,
        max_waiting=max_waiting,
        error=IngestionOverloaded,
    )


@asynccontextmanager
async def ledger_over(
    ledger: Ledger, services: Services, units: UnitsOfWork, admission: AdmissionQueue | None = None
) -> AsyncIterator[Ledger]:
    """The same ledger through an application with its own units of work and admission queue."""
    admission = admission or _queue(4, queue_timeout_seconds=5, max_waiting=100)
    usage = IngestionService(units, prices=NoPrices(), limits=NoLimits(), admission=admission)
    async with client_of(services.replacing(usage)) as client:
        yield Ledger(tenant=replace(ledger.tenant, http=client), service=replace(ledger.service, http=client))


@asynccontextmanager
async def usage_mode_change(superuser: AsyncEngine, organization: str) -> AsyncIterator[None]:
    """Hold the ledger lock like a usage mode change, so that ingestion waits."""
    async with superuser.begin() as connection:
        await connection.execute(
            sa.text("SELECT pg_advisory_xact_lock(hashtext('byok.usage_mode'), hashtext(:organization))"),
            {"organization": organization},
        )
        yield


async def is_waiting(superuser: AsyncEngine, organization: str) -> bool:
    found = await fetch(
        superuser,
        "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND mode = 'ShareLock'"
        " AND objid::bigint = (hashtext(:organization)::bigint & 4294967295)",
        organization=organization,
    )
    return bool(found)


async def in_chunks(body: bytes, size: int) -> AsyncIterator[bytes]:
    for start in range(0, len(body), size):
        yield body[start : start + size]


def padded(size: int) -> bytes:
    """Return a valid event, padded to a number of bytes."""
    return json.dumps(event()).encode().ljust(size)


class TestIngestNdjson:
    @pytest.mark.parametrize("size", [1, 7, 1000, 10**6])
    async def test_accepts_lines_split_at_any_byte(self, ledger: Ledger, size: int) -> None:
        sent = [event(feature="ä") for _ in range(5)]

        response = await ledger.stream(in_chunks(lines(sent), size))

        assert response.json()["accepted"] == 5
        assert {row["event_id"] for row in await ledger.rows()} == {it["event_id"] for it in sent}

    @pytest.mark.parametrize("end", [b"", b"\n", b"\r\n", b"\n\n\n"])
    async def test_accepts_any_line_ending(self, ledger: Ledger, end: bytes) -> None:
        response = await ledger.stream(lines([event()]) + json.dumps(event()).encode() + end)

        assert response.json()["accepted"] == 2

    async def test_skips_blank_lines_but_counts_them_in_the_index(self, ledger: Ledger) -> None:
        response = await ledger.stream(b"\n  \n" + lines([event(), {}]))

        body = response.json()
        assert body["accepted"] == 1
        assert [(it["index"], it["code"]) for it in body["results"]] == [(3, "required")]

    @pytest.mark.parametrize(
        "line",
        [b"{", b"nul", b"\xff\xfe", b"\0", b'{"event_id": "\xff"}', b"[" * 60_000, b'{"a":' * 12_000],
    )
    async def test_rejects_only_the_lines_that_are_not_json(self, ledger: Ledger, line: bytes) -> None:
        response = await ledger.stream(lines([event()]) + line + b"\n" + lines([event()]))

        body = response.json()
        assert body["accepted"] == 2
        assert [(it["index"], it["event_id"], it["status"]) for it in body["results"]] == [
            (1, None, "rejected")
        ]
        assert body["results"][0]["code"] in {"malformed_json", "invalid_event", "unknown_field"}

    async def test_ingests_all_lines_of_many_chunks(self, ledger: Ledger) -> None:
        sent = [event() for _ in range(3500)]
        sent[2000] = sent[10]

        body = (await ledger.stream(in_chunks(lines(sent), 100_000))).json()

        assert (body["accepted"], body["duplicates"]) == (3499, 1)
        assert [it["index"] for it in body["results"]] == [2000]

    async def test_accepts_an_empty_body(self, ledger: Ledger) -> None:
        assert (await ledger.stream(b"")).json()["accepted"] == 0

    async def test_has_no_total_size_limit(self, ledger: Ledger) -> None:
        body = b"".join(padded(LINE_LIMIT) + b"\n" for _ in range(300))  # more than the limit of a JSON batch

        assert (await ledger.stream(in_chunks(body, 10**6))).json()["accepted"] == 300


class TestLineLimit:
    async def test_accepts_a_line_at_the_limit(self, ledger: Ledger) -> None:
        assert (await ledger.stream(padded(LINE_LIMIT) + b"\n")).json()["accepted"] == 1

    @pytest.mark.parametrize("end", [b"\n", b""])
    @pytest.mark.parametrize("before", [0, 3, 1500])
    async def test_a_long_line_ends_the_request_and_keeps_earlier_lines(
        self, ledger: Ledger, before: int, end: bytes
    ) -> None:
        sent = [event() for _ in range(before)]
        following = b"" if not end else lines([event()])

        response = await ledger.stream(lines(sent) + padded(LINE_LIMIT + 1) + end + following)

        assert_problem(response, 413, "payload_too_large")
        assert response.json()["committed"] == {
            "lines": before,
            "accepted": before,
            "duplicates": 0,
            "rejected": 0,
        }
        assert {row["event_id"] for row in await ledger.rows()} == {it["event_id"] for it in sent}

    async def test_rejects_an_endless_line_early(self, ledger: Ledger) -> None:
        sent = 0

        async def endless() -> AsyncIterator[bytes]:
            nonlocal sent
            while sent < 10 * LINE_LIMIT:
                sent += 1000
                yield b"x" * 1000

        response = await ledger.stream(endless())

        assert_problem(response, 413, "payload_too_large")


class TestFailures:
    async def test_a_failure_halfway_reports_what_was_committed(
        self, ledger: Ledger, services: Services, database: Database
    ) -> None:
        sent = [event() for _ in range(3500)]
        units = FailingUnits(database, after=2)

        async with ledger_over(ledger, services, units) as failing:
            response = await failing.stream(in_chunks(lines(sent), 50_000))

        assert_problem(response, 503, "database_unavailable")
        assert response.json()["committed"] == {
            "lines": 2000,
            "accepted": 2000,
            "duplicates": 0,
            "rejected": 0,
        }
        assert {row["event_id"] for row in await ledger.rows()} == {it["event_id"] for it in sent[:2000]}

    async def test_a_failed_json_batch_records_nothing(
        self, ledger: Ledger, services: Services, database: Database
    ) -> None:
        async with ledger_over(ledger, services, FailingUnits(database, after=0)) as failing:
            response = await failing.post([event()])

        assert_problem(response, 503, "database_unavailable")
        assert "committed" not in response.json()
        assert await ledger.rows() == []

    async def test_a_disconnect_keeps_complete_chunks(self, ledger: Ledger, services: Services) -> None:
        sent = [event() for _ in range(1500)]

        async def cut() -> AsyncIterator[bytes]:
            yield lines(sent)
            raise ClientDisconnect

        with pytest.raises(ClientDisconnect):
            await RequestIngestion(services[IngestionService], ledger.tenant.organization).ingest_lines(cut())

        assert {row["event_id"] for row in await ledger.rows()} == {it["event_id"] for it in sent[:1000]}


class TestOverload:
    async def test_responds_429_immediately_and_loses_no_event(
        self, ledger: Ledger, services: Services, database: Database, superuser: AsyncEngine
    ) -> None:
        admission = _queue(1, queue_timeout_seconds=0, max_waiting=1)
        first, second = event(), event()

        async with (
            ledger_over(ledger, services, UnitsOfWork(database), admission) as busy,
            usage_mode_change(superuser, ledger.tenant.organization),
        ):
            waiting = asyncio.create_task(busy.post([first]))
            await until(lambda: is_waiting(superuser, ledger.tenant.organization), bool)
            refused = [await busy.post([second]), await busy.stream(lines([second]))]
        accepted_response = await waiting

        for response in refused:
            assert_problem(response, 429, "ingestion_overloaded")
            assert int(response.headers["Retry-After"]) > 0
        assert refused[1].json()["committed"]["lines"] == 0
        assert accepted_response.json()["accepted"] == 1
        assert [row["event_id"] for row in await ledger.rows()] == [first["event_id"]]
        await ledger.accepted(second)

    async def test_leaves_connections_for_other_requests(
        self, ledger: Ledger, services: Services, database: Database, superuser: AsyncEngine
    ) -> None:
        admission = _queue(2, queue_timeout_seconds=10, max_waiting=100)

        async with (
            ledger_over(ledger, services, UnitsOfWork(database), admission) as busy,
            usage_mode_change(superuser, ledger.tenant.organization),
        ):
            waiting = [asyncio.create_task(busy.post([event()])) for _ in range(20)]
            await until(lambda: is_waiting(superuser, ledger.tenant.organization), bool)
            assert await ledger.rows() == []
        responses = await asyncio.gather(*waiting)

        assert {response.status_code for response in responses} == {200}
        assert len(await ledger.rows()) == 20

    async def test_limits_the_number_of_waiting_tasks(self) -> None:
        admission = _queue(1, queue_timeout_seconds=60, max_waiting=1)

        async with admission.slot("org_acme"):
            waiting = asyncio.create_task(wait_for_slot(admission))
            await asyncio.sleep(0)
            with pytest.raises(IngestionOverloaded):
                async with admission.slot("org_acme"):
                    pass
        await waiting


async def wait_for_slot(admission: AdmissionQueue) -> None:
    async with admission.slot("org_acme"):
        pass


class TestRetry:
    async def test_reports_a_repeated_body_as_duplicates(self, ledger: Ledger) -> None:
        body = lines(event() for _ in range(1200))
        await ledger.stream(body)

        again = (await ledger.stream(body)).json()

        assert (again["accepted"], again["duplicates"], len(again["results"])) == (0, 1200, 1200)

    async def test_after_a_failure_ingests_only_missing_events(self, ledger: Ledger) -> None:
        sent = [event() for _ in range(10)]
        await ledger.stream(lines(sent[:6]) + b"x" * (LINE_LIMIT + 1))

        again = (await ledger.stream(lines(sent))).json()

        assert (again["accepted"], again["duplicates"]) == (4, 6)


class TestMediaType:
    async def test_encoded_lines_are_415_and_not_rejected_events(self, ledger: Ledger) -> None:
        body = gzip.compress(lines([event()]))

        response = await ledger.service.post(
            ledger.path, content=body, headers={**NDJSON, "Content-Encoding": "gzip"}
        )

        assert_problem(response, 415, "unsupported_media_type")

    async def test_ndjson_is_rejected_on_other_paths(self, ledger: Ledger) -> None:
        tenant = ledger.tenant

        response = await tenant.post(tenant.credentials, content=b"{}", headers=NDJSON)

        assert_problem(response, 415, "unsupported_media_type")
