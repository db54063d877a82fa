"""An organization with periodic validations, in a database without other queue items."""

import asyncio
from collections import Counter
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy.ext.asyncio import AsyncEngine

from app.auth.principal import Caller
from app.core.clock import new_id, now
from app.core.keys.api_key import ApiKey
from app.core.services import Services
from app.credentials.service import CredentialService, NewCredential
from app.credentials.validation_results import Reason, ValidationResult, status_of
from app.database.engine import Database
from app.database.unit_of_work import UnitsOfWork
from app.provider_url.endpoint import ProviderEndpoint
from app.provider_url.url import ProviderURL
from app.validation.worker import ValidationWorker
from tests.support.credentials.organization_harness import make_key
from tests.support.database.rows import change, fetch
from tests.support.fakes import FakeSecretStore
from tests.support.service_builder import assemble

DAY = timedelta(hours=24)


class GatedProber:
    """Returns results with `reason`. Probes of custom hosts wait while the gate is closed."""

    def __init__(self) -> None:
        self.reason = Reason.OK
        self.probes_by_key: Counter[str] = Counter()
        self.timeouts: list[float | None] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def probe(
        self,
        key: ApiKey,
        endpoint: ProviderEndpoint,
        *,
        previously_valid: bool,  # noqa: ARG002  # the port's signature
        timeout_seconds: float | None = None,  # the port's signature
    ) -> ValidationResult:
        self.probes_by_key[key.reveal()] += 1
        self.timeouts.append(timeout_seconds)
        if endpoint.base_url is not None:
            await self.gate.wait()
        return ValidationResult(status=status_of(self.reason), reason=self.reason, checked_at=now())


class PeriodicValidationHarness:
    """One organization, in a database without other queue items."""

    def __init__(self, services: Services, database: Database, superuser: AsyncEngine) -> None:
        self._services = services
        self._database = database
        self._superuser = superuser
        self._store = FakeSecretStore()
        self.prober = GatedProber()
        self.caller = Caller(
            subject="ada@example.com", organization_id=f"org_{uuid4().hex[:16]}", request_id="req_test"
        )
        self.instance = self.new_instance()

    def new_instance(self, *, every: timedelta | None = DAY, per_organization: int = 4) -> Services:
        return assemble(
            self._services,
            units=UnitsOfWork(self._database),
            store=self._store,
            prober=self.prober,
            validate_every=every,
            validations_per_organization=per_organization,
        )

    async def register(
        self, *, base_url: str | None = None, caller: Caller | None = None
    ) -> tuple[UUID, str]:
        """Create a credential, by default of the harness's organization. Returns its id and its key."""
        key = make_key()
        new = NewCredential(
            label="Acme",
            key=key,
            base_url=None if base_url is None else ProviderURL(base_url),
            auth_style=None,
            workspace_id=None,
            probe_model=None,
        )
        record = await self.instance[CredentialService].register(
            caller or self.caller, new, credential_id=new_id()
        )
        self.prober.probes_by_key.clear()
        return record.id, key.reveal()

    async def run(self) -> None:
        """Make all periodic validations due and run the worker."""
        await self.make_due()
        await self.instance[ValidationWorker].run()

    async def make_due(self, *, within: timedelta = 2 * DAY) -> None:
        """Make the periodic validations due that are scheduled within that time."""
        await change(
            self._superuser,
            "UPDATE job_queue SET due_at = now() - interval '1 second'"
            " WHERE kind = 'revalidate' AND due_at < now() + CAST(:within AS interval)",
            within=within,
        )

    async def due_in(self) -> list[timedelta]:
        """The time until each scheduled periodic validation, in ascending order."""
        rows = await fetch(
            self._superuser, "SELECT due_at FROM job_queue WHERE kind = 'revalidate' ORDER BY due_at"
        )
        return [row["due_at"] - now() for row in rows]

    async def checks(self) -> list[dict[str, Any]]:
        return await fetch(
            self._superuser,
            "SELECT trigger, requested_by, status FROM credential_validation WHERE organization_id = :organization"
            " ORDER BY id",
            organization=self.caller.organization_id,
        )

    async def clear(self) -> None:
        await change(self._superuser, "DELETE FROM job_queue")
