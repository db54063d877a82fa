"""An organization whose keys come due, in a database where nobody else has work to do."""

import asyncio
from collections import Counter
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy.ext.asyncio import AsyncEngine

from app.auth.principal import Caller
from app.core.api_key import ApiKey
from app.core.clock import new_id, now
from app.core.services import Services
from app.credentials.service import CredentialService, NewCredential
from app.credentials.verdicts import Reason, Verdict, status_of
from app.database.engine import Database
from app.database.unit_of_work import UnitsOfWork
from app.provider_url.endpoint import ProviderEndpoint
from app.provider_url.url import ProviderURL
from app.validation.worker import ValidationWorker
from tests.assembly import assemble
from tests.fakes import FakeSecretStore
from tests.integration.services.workplace import make_key
from tests.rows import change, fetch

DAY = timedelta(hours=24)


class Prober:
    """Answers with `reason`, and holds back what goes to custom hosts while the gate is closed."""

    def __init__(self) -> None:
        self.reason = Reason.OK
        self.asked: Counter[str] = Counter()
        self.allowed_seconds: list[float | None] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def probe(
        self,
        key: ApiKey,
        destination: ProviderEndpoint,
        *,
        previously_valid: bool,  # noqa: ARG002  # the port's signature
        timeout_seconds: float | None = None,  # likewise
    ) -> Verdict:
        self.asked[key.reveal()] += 1
        self.allowed_seconds.append(timeout_seconds)
        if destination.base_url is not None:
            await self.gate.wait()
        return Verdict(status=status_of(self.reason), reason=self.reason, checked_at=now())


class Place:
    """One organization, in a database where nobody else has work to do."""

    def __init__(self, services: Services, database: Database, owner: AsyncEngine) -> None:
        self._services = services
        self._database = database
        self._owner = owner
        self._store = FakeSecretStore()
        self.prober = Prober()
        self.caller = Caller(
            subject="ada@example.com", organization_id=f"org_{uuid4().hex[:16]}", request_id="req_test"
        )
        self.instance = self.new_instance()

    def new_instance(self, *, every: timedelta | None = DAY) -> Services:
        return assemble(
            self._services,
            units=UnitsOfWork(self._database),
            store=self._store,
            prober=self.prober,
            check_every=every,
        )

    async def register(self, *, base_url: str | None = None) -> tuple[UUID, str]:
        """A credential and its key."""
        key = make_key()
        new = NewCredential(
            label="Acme",
            key=key,
            base_url=None if base_url is None else ProviderURL(base_url),
            auth_style=None,
            workspace_id=None,
            probe_model=None,
        )
        record = await self.instance[CredentialService].register(self.caller, new, credential_id=new_id())
        self.prober.asked.clear()
        return record.id, key.reveal()

    async def run(self) -> None:
        """Let the time come for everything, and check what is due."""
        await self.make_due()
        await self.instance[ValidationWorker].run()

    async def make_due(self, *, within: timedelta = 2 * DAY) -> None:
        """Let the time come for all that is to be checked so soon."""
        await change(
            self._owner,
            "UPDATE job_queue SET due_at = now() - interval '1 second'"
            " WHERE kind = 'revalidate' AND due_at < now() + CAST(:within AS interval)",
            within=within,
        )

    async def pauses(self) -> list[timedelta]:
        """How long it is until each of the next checks, the soonest first."""
        rows = await fetch(
            self._owner, "SELECT due_at FROM job_queue WHERE kind = 'revalidate' ORDER BY due_at"
        )
        return [row["due_at"] - now() for row in rows]

    async def checks(self) -> list[dict[str, Any]]:
        return await fetch(
            self._owner,
            "SELECT trigger, requested_by, status FROM credential_validation WHERE organization_id = :organization"
            " ORDER BY id",
            organization=self.caller.organization_id,
        )

    async def clear(self) -> None:
        await change(self._owner, "DELETE FROM job_queue")
