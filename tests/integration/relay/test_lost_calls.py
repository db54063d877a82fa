"""Lost calls of an organization end, whatever another one does meanwhile."""

from uuid import uuid4

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.core.admission import AdmissionQueue
from app.core.errors import IngestionOverloaded
from app.core.services import Services
from app.database.engine import Database
from app.database.unit_of_work import UnitsOfWork
from app.pricing.service import PriceService
from app.relay.ending.lost_call_worker import LostCallWorker
from app.spend_limits.service import SpendLimitService
from app.usage.service import IngestionService
from tests.support.database.rows import change, fetch

NUMBERS = range(3)
LOST_CALL = """
    INSERT INTO spend_reservation (organization_id, id, mode, model, state, created_at, created_by, expires_at, last_seen_at)
    VALUES (:organization, gen_random_uuid(), 'managed', 'claude-haiku-4-5', 'open', now(), 'service',
        now() + interval '1 hour', now() - interval '10 minutes')
"""


@pytest.mark.parametrize("busy", NUMBERS)
async def test_end_while_batches_of_another_organization_use_all_its_slots(
    busy: int, services: Services, own_database: Database, own_superuser: AsyncEngine
) -> None:
    organizations = [f"org_{uuid4().hex[:16]}" for _ in NUMBERS]
    for organization in organizations:
        await change(own_superuser, LOST_CALL, organization=organization)
    units = UnitsOfWork(own_database)
    admission = AdmissionQueue(
        4, per_organization=1, queue_timeout_seconds=0, max_waiting=4, error=IngestionOverloaded
    )
    ingestion = IngestionService(
        units, prices=services[PriceService], limits=services[SpendLimitService], admission=admission
    )

    async with admission.slot(organizations[busy]):
        assert await LostCallWorker(units, ingestion).run() == 2

        left = await fetch(
            own_superuser, "SELECT organization_id FROM spend_reservation WHERE state = 'open'"
        )
    assert [row["organization_id"] for row in left] == [organizations[busy]]
    assert await LostCallWorker(units, ingestion).run() == 1
