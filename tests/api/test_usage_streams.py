"""NDJSON: line by line, committed in chunks, and an honest answer when something goes wrong in the middle."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine
from starlette.requests import ClientDisconnect

from app.core.errors import DatabaseUnavailable, IngestionOverloaded
from app.core.services import Services
from app.database.engine import Database
from app.database.unit_of_work import UnitOfWork, UnitsOfWork
from app.usage.admission import AdmissionQueue
from app.usage.body_reader import Intake
from app.usage.service import IngestionService
from tests.api.test_conventions import assert_problem
from tests.api.usage import NDJSON, Ledger, event, lines
from tests.assembly import client_of
from tests.rows import fetch
from tests.unpriced import Unlimited, Unpriced
from tests.waiting import until

LINE_LIMIT = 64 * 1024


class FailingUnits(UnitsOfWork):
    """A database that goes down after so many units of work."""

    def __init__(self, database: Database, *, after: int) -> None:
        super().__init__(database)
        self._left = after

    @asynccontextmanager
    async def writing(self, organization_id: str) -> AsyncIterator[UnitOfWork]:
        self._left -= 1
        if self._left < 0:
            raise DatabaseUnavailable
        async with super().writing(organization_id) as uow:
            yield uow


@asynccontextmanager
async def ledger_over(
    ledger: Ledger, services: Services, units: UnitsOfWork, turns: AdmissionQueue | None = None
) -> AsyncIterator[Ledger]:
    """The same ledger through an application whose ingestion has parts of its own."""
    turns = turns or AdmissionQueue(4, patience_seconds=5, at_most_waiting=100)
    usage = IngestionService(units, prices=Unpriced(), limits=Unlimited(), turns=turns)
    async with client_of(services.replacing(usage)) as client:
        yield Ledger(tenant=replace(ledger.tenant, http=client), service=replace(ledger.service, http=client))


@asynccontextmanager
async def switching(owner: AsyncEngine, organization: str) -> AsyncIterator[None]:
    """A switch of the usage mode that is under way: ingestion waits."""
    async with owner.begin() as connection:
        await connection.execute(
            sa.text("SELECT pg_advisory_xact_lock(hashtext('byok.usage_mode'), hashtext(:organization))"),
            {"organization": organization},
        )
        yield


async def is_waiting(owner: AsyncEngine, organization: str) -> bool:
    found = await fetch(
        owner,
        "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND mode = 'ShareLock'"
        " AND objid::bigint = (hashtext(:organization)::bigint & 4294967295)",
        organization=organization,
    )
    return bool(found)


async def in_pieces(body: bytes, size: int) -> AsyncIterator[bytes]:
    for start in range(0, len(body), size):
        yield body[start : start + size]


def padded(size: int) -> bytes:
    """A well-formed event of that many bytes."""
    return json.dumps(event()).encode().ljust(size)


class TestLines:
    @pytest.mark.parametrize("size", [1, 7, 1000, 10**6])
    async def test_are_taken_however_they_are_cut(self, ledger: Ledger, size: int) -> None:
        sent = [event(feature="ä") for _ in range(5)]

        response = await ledger.stream(in_pieces(lines(sent), size))

        assert response.json()["accepted"] == 5
        assert {row["event_id"] for row in await ledger.rows()} == {it["event_id"] for it in sent}

    @pytest.mark.parametrize("end", [b"", b"\n", b"\r\n", b"\n\n\n"])
    async def test_may_end_in_any_way(self, ledger: Ledger, end: bytes) -> None:
        response = await ledger.stream(lines([event()]) + json.dumps(event()).encode() + end)

        assert response.json()["accepted"] == 2

    async def test_that_are_blank_count_and_are_nothing(self, ledger: Ledger) -> None:
        response = await ledger.stream(b"\n  \n" + lines([event(), {}]))

        body = response.json()
        assert body["accepted"] == 1
        assert [(it["index"], it["code"]) for it in body["results"]] == [(3, "required")]

    @pytest.mark.parametrize(
        "line",
        [b"{", b"nul", b"\xff\xfe", b"\0", b'{"event_id": "\xff"}', b"[" * 60_000, b'{"a":' * 12_000],
    )
    async def test_that_are_no_json_are_rejected_alone(self, ledger: Ledger, line: bytes) -> None:
        response = await ledger.stream(lines([event()]) + line + b"\n" + lines([event()]))

        body = response.json()
        assert body["accepted"] == 2
        assert [(it["index"], it["event_id"], it["status"]) for it in body["results"]] == [
            (1, None, "rejected")
        ]
        assert body["results"][0]["code"] in {"malformed_json", "invalid_event", "unknown_field"}

    async def test_of_many_chunks_are_all_taken(self, ledger: Ledger) -> None:
        sent = [event() for _ in range(3500)]
        sent[2000] = sent[10]

        body = (await ledger.stream(in_pieces(lines(sent), 100_000))).json()

        assert (body["accepted"], body["duplicates"]) == (3499, 1)
        assert [it["index"] for it in body["results"]] == [2000]

    async def test_may_be_none(self, ledger: Ledger) -> None:
        assert (await ledger.stream(b"")).json()["accepted"] == 0

    async def test_have_no_bound_together(self, ledger: Ledger) -> None:
        body = b"".join(padded(LINE_LIMIT) + b"\n" for _ in range(300))  # beyond what a JSON batch may be

        assert (await ledger.stream(in_pieces(body, 10**6))).json()["accepted"] == 300


class TestLongLine:
    async def test_up_to_the_limit_is_taken(self, ledger: Ledger) -> None:
        assert (await ledger.stream(padded(LINE_LIMIT) + b"\n")).json()["accepted"] == 1

    @pytest.mark.parametrize("end", [b"\n", b""])
    @pytest.mark.parametrize("before", [0, 3, 1500])
    async def test_ends_the_request_and_what_came_before_is_kept(
        self, ledger: Ledger, before: int, end: bytes
    ) -> None:
        sent = [event() for _ in range(before)]
        tail = b"" if not end else lines([event()])

        response = await ledger.stream(lines(sent) + padded(LINE_LIMIT + 1) + end + tail)

        assert_problem(response, 413, "payload_too_large")
        assert response.json()["committed"] == {
            "lines": before,
            "accepted": before,
            "duplicates": 0,
            "rejected": 0,
        }
        assert {row["event_id"] for row in await ledger.rows()} == {it["event_id"] for it in sent}

    async def test_without_an_end_is_refused_before_it_ends(self, ledger: Ledger) -> None:
        sent = 0

        async def endless() -> AsyncIterator[bytes]:
            nonlocal sent
            while sent < 10 * LINE_LIMIT:
                sent += 1000
                yield b"x" * 1000

        response = await ledger.stream(endless())

        assert_problem(response, 413, "payload_too_large")


class TestTrouble:
    async def test_in_the_middle_says_what_was_committed(
        self, ledger: Ledger, services: Services, database: Database
    ) -> None:
        sent = [event() for _ in range(3500)]
        units = FailingUnits(database, after=2)

        async with ledger_over(ledger, services, units) as failing:
            response = await failing.stream(in_pieces(lines(sent), 50_000))

        assert_problem(response, 503, "database_unavailable")
        assert response.json()["committed"] == {
            "lines": 2000,
            "accepted": 2000,
            "duplicates": 0,
            "rejected": 0,
        }
        assert {row["event_id"] for row in await ledger.rows()} == {it["event_id"] for it in sent[:2000]}

    async def test_of_a_json_batch_keeps_nothing_of_it(
        self, ledger: Ledger, services: Services, database: Database
    ) -> None:
        async with ledger_over(ledger, services, FailingUnits(database, after=0)) as failing:
            response = await failing.post([event()])

        assert_problem(response, 503, "database_unavailable")
        assert "committed" not in response.json()
        assert await ledger.rows() == []

    async def test_of_a_client_that_vanished_keeps_whole_chunks(
        self, ledger: Ledger, services: Services
    ) -> None:
        sent = [event() for _ in range(1500)]

        async def cut() -> AsyncIterator[bytes]:
            yield lines(sent)
            raise ClientDisconnect

        with pytest.raises(ClientDisconnect):
            await Intake(services[IngestionService], ledger.tenant.organization).take_lines(cut())

        assert {row["event_id"] for row in await ledger.rows()} == {it["event_id"] for it in sent[:1000]}


class TestOverload:
    async def test_is_told_at_once_and_loses_nothing(
        self, ledger: Ledger, services: Services, database: Database, owner: AsyncEngine
    ) -> None:
        turns = AdmissionQueue(1, patience_seconds=0, at_most_waiting=1)
        first, second = event(), event()

        async with (
            ledger_over(ledger, services, UnitsOfWork(database), turns) as busy,
            switching(owner, ledger.tenant.organization),
        ):
            waiting = asyncio.create_task(busy.post([first]))
            await until(lambda: is_waiting(owner, ledger.tenant.organization), bool)
            refused = [await busy.post([second]), await busy.stream(lines([second]))]
        answered = await waiting

        for response in refused:
            assert_problem(response, 429, "ingestion_overloaded")
            assert int(response.headers["Retry-After"]) > 0
        assert refused[1].json()["committed"]["lines"] == 0
        assert answered.json()["accepted"] == 1
        assert [row["event_id"] for row in await ledger.rows()] == [first["event_id"]]
        await ledger.accepted(second)

    async def test_leaves_connections_to_the_rest(
        self, ledger: Ledger, services: Services, database: Database, owner: AsyncEngine
    ) -> None:
        turns = AdmissionQueue(2, patience_seconds=10, at_most_waiting=100)

        async with (
            ledger_over(ledger, services, UnitsOfWork(database), turns) as busy,
            switching(owner, ledger.tenant.organization),
        ):
            waiting = [asyncio.create_task(busy.post([event()])) for _ in range(20)]
            await until(lambda: is_waiting(owner, ledger.tenant.organization), bool)
            assert await ledger.rows() == []
        answers = await asyncio.gather(*waiting)

        assert {response.status_code for response in answers} == {200}
        assert len(await ledger.rows()) == 20

    async def test_of_those_who_wait_is_bounded_too(self) -> None:
        turns = AdmissionQueue(1, patience_seconds=60, at_most_waiting=1)

        async with turns.turn():
            waiting = asyncio.create_task(wait_for_turn(turns))
            await asyncio.sleep(0)
            with pytest.raises(IngestionOverloaded):
                async with turns.turn():
                    pass
        await waiting


async def wait_for_turn(turns: AdmissionQueue) -> None:
    async with turns.turn():
        pass


class TestRepetition:
    async def test_of_a_whole_body_is_all_duplicates(self, ledger: Ledger) -> None:
        body = lines(event() for _ in range(1200))
        await ledger.stream(body)

        again = (await ledger.stream(body)).json()

        assert (again["accepted"], again["duplicates"], len(again["results"])) == (0, 1200, 1200)

    async def test_after_a_failure_takes_only_what_was_missing(self, ledger: Ledger) -> None:
        sent = [event() for _ in range(10)]
        await ledger.stream(lines(sent[:6]) + b"x" * (LINE_LIMIT + 1))

        again = (await ledger.stream(lines(sent))).json()

        assert (again["accepted"], again["duplicates"]) == (4, 6)


class TestType:
    async def test_of_lines_is_for_this_path_alone(self, ledger: Ledger) -> None:
        tenant = ledger.tenant

        response = await tenant.post(tenant.credentials, content=b"{}", headers=NDJSON)

        assert_problem(response, 415, "unsupported_media_type")
