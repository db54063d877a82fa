"""One key whose scheduled validations run at the times of the schedule, by a clock instead of by waiting."""

from datetime import datetime, timedelta
from uuid import UUID, uuid4

from sqlalchemy.ext.asyncio import AsyncEngine

from app.auth.principal import Caller
from app.core.clock import new_id, now
from app.core.services import Services
from app.credentials.records import VersionRecord
from app.credentials.service import CredentialService, NewCredential
from app.database.engine import Database
from app.database.unit_of_work import UnitsOfWork
from app.validation.service import ValidationService
from app.validation.worker import ValidationWorker
from tests.support.credentials.organization_harness import make_key
from tests.support.database.rows import change, fetch
from tests.support.fakes import FakeSecretStore
from tests.support.provider.corpus_server import CorpusProber
from tests.support.service_builder import assemble

DAY = timedelta(hours=24)


class ScheduledKey:
    """A credential in a separate organization, in a database without other queue items."""

    def __init__(
        self,
        services: Services,
        database: Database,
        superuser: AsyncEngine,
        prober: CorpusProber,
        *,
        every: timedelta | None = DAY,
    ) -> None:
        self._superuser = superuser
        self.prober = prober
        self.key = make_key()
        self.credential_id: UUID = new_id()
        self.caller = Caller(
            subject="ada@example.com", organization_id=f"org_{uuid4().hex[:16]}", request_id="req_test"
        )
        self.services = assemble(
            services,
            units=UnitsOfWork(database),
            store=FakeSecretStore(),
            prober=prober,
            validate_every=every,
            writes_per_minute=100_000,
        )

    async def save(self, case_id: str = "models") -> None:
        """Create the credential. The provider sends the response of this case."""
        self.respond_with(case_id)
        new = NewCredential(
            label="Acme", key=self.key, base_url=None, auth_style=None, workspace_id=None, probe_model=None
        )
        await self.services[CredentialService].register(self.caller, new, credential_id=self.credential_id)

    def respond_with(self, case_id: str) -> None:
        self.prober.case_ids[self.key.reveal()] = case_id

    async def validate(self, case_id: str, *, after: timedelta = timedelta(0)) -> None:
        """Validate on request."""
        self.respond_with(case_id)
        self.prober.instant += after
        await self.services[ValidationService].request(
            self.caller, self.credential_id, validation_id=new_id()
        )

    async def run_next(self, case_id: str) -> timedelta:
        """Move the clock to the next scheduled validation and run it. Returns how long that took on the clock."""
        self.respond_with(case_id)
        due_at = await self.next_due_at()
        assert due_at is not None
        waited, self.prober.instant = due_at - self.prober.instant, due_at
        await change(
            self._superuser,
            "UPDATE job_queue SET due_at = :past WHERE kind = 'revalidate' AND id = :id",
            past=now() - timedelta(seconds=1),
            id=self.credential_id,
        )
        await self.services[ValidationWorker].run()
        return waited

    async def next_due_at(self) -> datetime | None:
        rows = await fetch(
            self._superuser,
            "SELECT due_at FROM job_queue WHERE kind = 'revalidate' AND id = :id",
            id=self.credential_id,
        )
        due_at: datetime | None = rows[0]["due_at"] if rows else None
        return due_at

    async def version(self) -> VersionRecord:
        record = await self.services[CredentialService].read(self.caller.organization_id, self.credential_id)
        return record.active_version

    async def status(self) -> tuple[str, str]:
        """The status of the last definite result and that of the latest one."""
        version = await self.version()
        return version.result.status, version.latest.status
