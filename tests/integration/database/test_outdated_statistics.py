"""Statements handle a number of rows that is linear in those of a request, also with outdated statistics.

PostgreSQL expects at most one row of an organization that had none when the statistics were made, and then may compare all rows
of a batch with all rows that it has found.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast

import pytest
from sqlalchemy.ext.asyncio import create_async_engine

from app.billing.ledger_totals import RETAINED_MONTHS
from app.billing.month import BillingMonth
from app.core.clock import now
from app.credentials.records import CredentialState
from app.credentials.repository import CredentialRepository
from app.credentials.version_repository import VersionRepository
from app.database.engine import Database
from app.database.unit_of_work import UnitOfWork, UnitsOfWork
from app.pricing.backfill_repository import BEGINNING, PriceBackfillRepository
from app.pricing.corrections import Correction
from app.pricing.repository import PriceRepository
from app.readiness.repository import ReadinessRepository
from app.spend_limits.repository import LimitRepository
from app.spend_limits.reservation_repository import ReservationRepository
from app.usage.correction_repository import CorrectionRepository
from app.usage.last_used_repository import KeyLastUsedRepository
from app.usage.repository import UsageRepository
from app.usage_events.events import EventBatch
from app.usage_events.records import UsageFlag
from app.usage_reports.rollup_repository import RollupRepository
from app.validation.repository import ValidationRepository
from app.webhooks.repository import WebhookRepository
from tests.support.database.handled_rows import ExplainingSession
from tests.support.database.large_organizations import fill, id_of, stop_autovacuum
from tests.support.database.own_database import DatabaseRoles, copied_database
from tests.support.database.rows import change

ORGANIZATION = "org_new"
CREDENTIALS, EACH = 40, 40
# Each has its event, delivery and reservation.
VERSIONS = CREDENTIALS * EACH
MONTHS = 120
BATCH = [str(number) for number in range(VERSIONS)]
# Those that any plan handles for a row: each node of a plan does, and each index that gets an entry takes some blocks.
ROWS_PER_ROW = 40
ROWS_PER_ROW_OF_CREDENTIAL = 12
# By name: the other organizations, and how many rows each has. Those of one row let also a kept plan expect one.
OTHERS = {"few": (10, 4, 4), "many": (100, 1, 1)}

Operation = Callable[[UnitOfWork], Awaitable[object]]


@pytest.fixture(scope="module", params=sorted(OTHERS))
async def outdated(
    template_database: DatabaseRoles, request: pytest.FixtureRequest
) -> AsyncIterator[Database]:
    """A database with an organization that has many rows, and with statistics from before it had any."""
    number, credentials, each = OTHERS[request.param]
    async with copied_database(template_database) as roles:
        superuser = create_async_engine(roles.superuser)
        await stop_autovacuum(superuser)
        for other in range(number):
            await fill(superuser, f"org_{other}", credentials=credentials, each=each)
        await change(superuser, "ANALYZE")
        await fill(superuser, ORGANIZATION, credentials=CREDENTIALS, each=EACH)
        await superuser.dispose()
        database = Database(roles.login, timeout_seconds=60)
        yield database
        await database.close()


async def explain(
    database: Database, operation: Operation, *, has_few_rows: bool | None
) -> ExplainingSession:
    """Run an operation as the service does, and undo it."""
    async with UnitsOfWork(database).writing_with_shared_lock(ORGANIZATION, has_few_rows=has_few_rows) as uow:
        session = ExplainingSession(uow._session._connection)
        await operation(UnitOfWork(session, ORGANIZATION))
    return session


def ids(number: int = VERSIONS) -> list[Any]:
    return [id_of(ORGANIZATION, n) for n in range(1, number + 1)]


async def claim(uow: UnitOfWork) -> None:
    events = [
        SimpleNamespace(event_id=f"new-{it}", started_at=now(), provider_request_id=f"request-{it}")
        for it in BATCH
    ]
    batch = SimpleNamespace(events=events, digests=[b""] * VERSIONS)
    await uow[UsageRepository].claim(cast("EventBatch", batch))


async def cancel(uow: UnitOfWork) -> None:
    corrections = uow[CorrectionRepository]
    found = await corrections.find(BATCH)
    assert len(found) == VERSIONS
    cancelled = await corrections.cancel({f"correction-{it}": found[it] for it in found}, now())
    assert len(cancelled) == VERSIONS + VERSIONS // 2
    assert all(it.is_corrected for it in (await corrections.find(BATCH)).values())


async def roll_up(uow: UnitOfWork) -> None:
    assert (await uow[RollupRepository].roll_up()).has_moved


async def backfill(uow: UnitOfWork) -> None:
    prices = uow[PriceBackfillRepository]
    events = (await prices.unpriced(after=BEGINNING, at_most=VERSIONS)).events
    assert len(events) == VERSIONS // 2
    await prices.usage_objects(events)
    same: Mapping[str, Any] = {"cost": 1, "billed": 0, "price_version": "x", "flags": UsageFlag.NONE}
    corrections = [
        Correction(started_at=it.started_at, event_id=it.event_id, part=it.part, **same) for it in events
    ]
    assert len(await prices.append(corrections, now=now())) == len(events)


async def record_uses(uow: UnitOfWork) -> None:
    uses: dict[Any, datetime] = {(it, n + 1): now() for it in ids(CREDENTIALS) for n in range(EACH)}
    await uow[KeyLastUsedRepository].record_uses(uses)


async def read_retained_months(uow: UnitOfWork) -> None:
    months = [BillingMonth.from_number(number).first_day for number in range(24_000, 24_000 + MONTHS)]
    await uow._session.rows(RETAINED_MONTHS, organization_id=ORGANIZATION, months=months)


BATCHES: dict[str, Operation] = {
    "claim": claim,
    "read digests": lambda uow: uow[UsageRepository].digests(BATCH),
    "cancel": cancel,
    "settle": lambda uow: uow[ReservationRepository].settle(dict.fromkeys(ids(), 0)),
    "record uses": record_uses,
}
# Of all rows.
OTHERS_OF_ALL: dict[str, Operation] = {
    "delete an endpoint": lambda uow: uow[WebhookRepository].delete(ids(1)[0]),
    "read key histories": lambda uow: uow[KeyLastUsedRepository].key_histories(
        ids(CREDENTIALS), since=now() - timedelta(days=35), key_versions=range(EACH)
    ),
    "roll up": roll_up,
    "backfill": backfill,
    "list credentials": lambda uow: uow[CredentialRepository].page(
        states=[CredentialState.ACTIVE], at_most=CREDENTIALS, before=None
    ),
    "list limits": lambda uow: uow[LimitRepository].states(at_most=CREDENTIALS, before=None),
    "read the readiness": lambda uow: uow[ReadinessRepository].readiness(),
    "list prices": lambda uow: uow[PriceRepository].lists(since=now() - timedelta(days=35)),
    "find retained months": read_retained_months,
}
# Of the rows of one credential.
OTHERS_OF_CREDENTIAL: dict[str, Operation] = {
    "list validations": lambda uow: uow[ValidationRepository].page(ids(1)[0], at_most=EACH, before=None),
    "find a version": lambda uow: uow[VersionRepository].find_intent(ids(1)[0], key_version=1),
}


@pytest.mark.parametrize("name", BATCHES)
async def test_batches_handle_a_linear_number_of_rows(outdated: Database, name: str) -> None:
    session = await explain(outdated, BATCHES[name], has_few_rows=False)

    assert 0 < session.handled <= ROWS_PER_ROW * VERSIONS, session.plan


@pytest.mark.parametrize("name", OTHERS_OF_ALL)
async def test_other_operations_handle_a_linear_number_of_rows(outdated: Database, name: str) -> None:
    session = await explain(outdated, OTHERS_OF_ALL[name], has_few_rows=None)

    assert 0 < session.handled <= ROWS_PER_ROW * VERSIONS, session.plan


@pytest.mark.parametrize("name", OTHERS_OF_CREDENTIAL)
async def test_operations_of_a_credential_handle_only_its_rows(outdated: Database, name: str) -> None:
    session = await explain(outdated, OTHERS_OF_CREDENTIAL[name], has_few_rows=None)

    assert 0 < session.handled <= EACH * ROWS_PER_ROW_OF_CREDENTIAL, session.plan
