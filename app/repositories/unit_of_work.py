"""One transaction of one organization, with the repositories that work in it.

`writing` keeps nothing unless `commit` is called; leaving without it rolls back. No network call
belongs inside: read, close, call out, open, write.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import cached_property
from typing import TypeVar

from app.core.database import Database, Session
from app.repositories.audit import AuditRepository
from app.repositories.billing import BillingRepository
from app.repositories.counting import STAND_STILL
from app.repositories.credentials import CredentialRepository
from app.repositories.held_secrets import HeldSecretRepository
from app.repositories.idempotency import IdempotencyRepository
from app.repositories.key_uses import KeyUseRepository
from app.repositories.leases import LeaseRepository
from app.repositories.limits import LimitRepository
from app.repositories.price_backfill import PriceBackfillRepository
from app.repositories.prices import PriceRepository
from app.repositories.queue import QueueRepository
from app.repositories.rate_limits import RateLimitRepository
from app.repositories.reports import ReportRepository
from app.repositories.reservations import ReservationRepository
from app.repositories.rewrapping import RewrapRepository
from app.repositories.rollups import RollupRepository
from app.repositories.rotation import RotationRepository
from app.repositories.statements import StatementRepository
from app.repositories.subscriptions import SubscriptionRepository
from app.repositories.usage import UsageRepository
from app.repositories.usage_listing import UsageListingRepository
from app.repositories.usage_retention import UsageRetentionRepository
from app.repositories.validation import ValidationRepository
from app.repositories.versions import VersionRepository
from app.repositories.webhooks import WebhookRepository

Joined = TypeVar("Joined")


class UnitOfWork:
    """The repositories of one transaction."""

    def __init__(self, session: Session, organization_id: str) -> None:
        self._session = session
        self._organization_id = organization_id

    @property
    def organization_id(self) -> str:
        return self._organization_id

    @cached_property
    def credentials(self) -> CredentialRepository:
        return CredentialRepository(self._session, self._organization_id)

    @cached_property
    def versions(self) -> VersionRepository:
        return VersionRepository(self._session, self._organization_id)

    @cached_property
    def validations(self) -> ValidationRepository:
        return ValidationRepository(self._session, self._organization_id)

    @cached_property
    def audit(self) -> AuditRepository:
        return AuditRepository(self._session, self._organization_id)

    @cached_property
    def billing(self) -> BillingRepository:
        return BillingRepository(self._session, self._organization_id)

    @cached_property
    def prices(self) -> PriceRepository:
        return PriceRepository(self._session, self._organization_id)

    @cached_property
    def price_backfill(self) -> PriceBackfillRepository:
        return PriceBackfillRepository(self._session, self._organization_id)

    @cached_property
    def statements(self) -> StatementRepository:
        return StatementRepository(self._session, self._organization_id)

    @cached_property
    def subscriptions(self) -> SubscriptionRepository:
        return SubscriptionRepository(self._session, self._organization_id)

    @cached_property
    def rotations(self) -> RotationRepository:
        return RotationRepository(self._session, self._organization_id)

    @cached_property
    def leases(self) -> LeaseRepository:
        return LeaseRepository(self._session, self._organization_id)

    @cached_property
    def idempotency(self) -> IdempotencyRepository:
        return IdempotencyRepository(self._session, self._organization_id)

    @cached_property
    def rate_limits(self) -> RateLimitRepository:
        return RateLimitRepository(self._session, self._organization_id)

    @cached_property
    def usage(self) -> UsageRepository:
        return UsageRepository(self._session, self._organization_id)

    @cached_property
    def key_uses(self) -> KeyUseRepository:
        return KeyUseRepository(self._session, self._organization_id)

    @cached_property
    def usage_listing(self) -> UsageListingRepository:
        return UsageListingRepository(self._session, self._organization_id)

    @cached_property
    def limits(self) -> LimitRepository:
        return LimitRepository(self._session, self._organization_id)

    @cached_property
    def reservations(self) -> ReservationRepository:
        return ReservationRepository(self._session, self._organization_id)

    @cached_property
    def webhooks(self) -> WebhookRepository:
        return WebhookRepository(self._session, self._organization_id)

    @cached_property
    def reports(self) -> ReportRepository:
        return ReportRepository(self._session, self._organization_id)

    @cached_property
    def rollups(self) -> RollupRepository:
        return RollupRepository(self._session, self._organization_id)

    @cached_property
    def queue(self) -> QueueRepository:
        return QueueRepository(self._session)

    @cached_property
    def held_secrets(self) -> HeldSecretRepository:
        return HeldSecretRepository(self._session, self._organization_id)

    @cached_property
    def rewraps(self) -> RewrapRepository:
        return RewrapRepository(self._session, self._organization_id)

    def join(self, work_on: Callable[[Session, str], Joined]) -> Joined:
        """Let a store that rests in the same database take part in this transaction."""
        return work_on(self._session, self._organization_id)

    async def commit(self) -> None:
        await self._session.commit()


class UnitsOfWork:
    """Opens units of work on a database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @asynccontextmanager
    async def writing(self, organization_id: str) -> AsyncIterator[UnitOfWork]:
        """Raises DatabaseUnavailable, besides what the repositories raise."""
        async with self._database.session(organization_id) as session:
            yield UnitOfWork(session, organization_id)

    @asynccontextmanager
    async def counting(self, organization_id: str) -> AsyncIterator[UnitOfWork]:
        """A writing one in which limits and the usage mode stand still: it begins once no change of them is under way."""
        async with self._database.session(organization_id, opening=STAND_STILL) as session:
            yield UnitOfWork(session, organization_id)

    @asynccontextmanager
    async def reading(self, organization_id: str) -> AsyncIterator[UnitOfWork]:
        """A read-only one; PostgreSQL refuses writes in it."""
        async with self._database.session(organization_id, read_only=True) as session:
            yield UnitOfWork(session, organization_id)

    @asynccontextmanager
    async def queue(self) -> AsyncIterator[tuple[QueueRepository, Session]]:
        """The job queue, which belongs to no organization."""
        async with self._database.session(None) as session:
            yield QueueRepository(session), session

    @asynccontextmanager
    async def usage_retention(self) -> AsyncIterator[UsageRetentionRepository]:
        """The ledger's partitions, which belong to no organization. Each of its methods commits by itself."""
        async with self._database.session(None) as session:
            yield UsageRetentionRepository(session)
