"""`destroy_previous: immediately` destroys the previous key only after a result that proves the new one."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID, uuid4

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.auth.principal import Caller
from app.composition.factory import Quotas
from app.core.clock import new_id
from app.core.services import Services
from app.credentials.records import Activate, DestroyPrevious, VersionState
from app.credentials.rotations import PreviousKept, RotationRecord, RotationState
from app.credentials.service import CredentialService, NewCredential
from app.credentials.validation_results import ValidationStatus
from app.database.engine import Database
from app.database.unit_of_work import UnitsOfWork
from app.egress.http_client import http_client
from app.rotation.rollback import RollbackService
from app.rotation.service import NewKey, RotationService
from app.secret_store.port import SecretMissing, SecretRef
from app.validation.service import ValidationService
from tests.support.credentials.organization_harness import make_key
from tests.support.database.rows import fetch
from tests.support.fakes import FakeSecretStore
from tests.support.fault_injection import sampled_cases
from tests.support.provider.corpus_server import CorpusProber, corpus_prober
from tests.support.provider.provider_answers import Case, cases
from tests.support.service_builder import assemble

CONCURRENCY = 4
RETENTION = timedelta(hours=72)
KEPT_REASONS = {
    ValidationStatus.VALID: None,
    ValidationStatus.INVALID: PreviousKept.INVALID,
    ValidationStatus.INDETERMINATE: PreviousKept.INDETERMINATE,
}
PROOF, OUTAGE, REJECTION, EDGE = "models", "502-page", "401-envelope", "edge-cloudflare-json-429"


@dataclass(frozen=True, kw_only=True)
class Rotator:
    """Rotates credentials of one organization. The provider sends each new key the response of a case."""

    services: Services
    prober: CorpusProber
    superuser: AsyncEngine
    caller: Caller
    store: FakeSecretStore

    async def create(self) -> UUID:
        """Create a credential with a valid key."""
        credential_id = new_id()
        new = NewCredential(
            label="Acme", key=make_key(), base_url=None, auth_style=None, workspace_id=None, probe_model=None
        )
        await self.services[CredentialService].register(self.caller, new, credential_id=credential_id)
        return credential_id

    async def rotate(
        self,
        credential_id: UUID,
        case_id: str,
        *,
        activate: Activate = Activate.IMMEDIATELY,
        destroy_previous: DestroyPrevious = DestroyPrevious.IMMEDIATELY,
    ) -> RotationRecord:
        key = make_key()
        self.prober.case_ids[key.reveal()] = case_id
        new = NewKey(
            key=key,
            activate=activate,
            destroy_previous=destroy_previous,
            provided_fields=frozenset(),
            base_url=None,
            auth_style=None,
            workspace_id=None,
            probe_model=None,
        )
        return await self.services[RotationService].rotate(
            self.caller, credential_id, new, rotation_id=new_id()
        )

    async def validate_active(self, credential_id: UUID, case_id: str) -> None:
        """Validate the active key; the provider sends the response of this case."""
        for key in self.prober.case_ids:
            self.prober.case_ids[key] = case_id
        await self.services[ValidationService].request(self.caller, credential_id, validation_id=new_id())

    async def read(self, rotation: RotationRecord) -> RotationRecord:
        return await self.services[RotationService].read(
            self.caller.organization_id, rotation.credential_id, rotation.id
        )

    async def states(self, credential_id: UUID) -> dict[int, VersionState]:
        versions = await self.services[CredentialService].versions(
            self.caller.organization_id, credential_id, at_most=100, before=1000
        )
        return {version.key_version: version.state for version in versions}

    async def has_first_key(self, credential_id: UUID) -> bool:
        """Whether the secret store still has the credential's first key."""
        ref = SecretRef(organization_id=self.caller.organization_id, credential_id=credential_id)
        try:
            await self.store.read(ref, 1)
        except SecretMissing:
            return False
        return True


@pytest.fixture
async def rotator(services: Services, database: Database, superuser: AsyncEngine) -> AsyncIterator[Rotator]:
    store = FakeSecretStore()
    async with http_client() as http, corpus_prober(http, cases()) as prober:
        yield Rotator(
            services=assemble(
                services,
                units=UnitsOfWork(database),
                store=store,
                prober=prober,
                writes_per_minute=100_000,
                retention=RETENTION,
                quotas=Quotas(credentials=1000),
            ),
            prober=prober,
            superuser=superuser,
            caller=Caller(
                subject="ada@example.com", organization_id=f"org_{uuid4().hex[:16]}", request_id="req_test"
            ),
            store=store,
        )


class TestEveryResponse:
    @pytest.mark.parametrize("activate", Activate)
    async def test_destroys_the_previous_key_only_if_it_proves_the_new_one(
        self, rotator: Rotator, activate: Activate
    ) -> None:
        slots = asyncio.Semaphore(CONCURRENCY)

        async def check(case: Case) -> None:
            async with slots:
                credential_id = await rotator.create()
                rotation = await rotator.rotate(credential_id, case["id"], activate=activate)
                status = case["expect"]["status"]
                is_proven = status == ValidationStatus.VALID
                is_kept = await rotator.has_first_key(credential_id)
                assert is_kept is not is_proven, case["id"]
                expected = VersionState.DESTROYED
                if not is_proven:
                    is_active = activate is Activate.WHEN_VALID
                    expected = VersionState.ACTIVE if is_active else VersionState.PREVIOUS
                assert (await rotator.states(credential_id))[1] == expected, case["id"]
                if activate is Activate.IMMEDIATELY:
                    assert rotation.state is RotationState.ACTIVATED
                    assert rotation.previous_kept_reason is KEPT_REASONS[ValidationStatus(status)], case["id"]
                else:
                    assert rotation.previous_kept_reason is None

        await asyncio.gather(*(check(case) for case in sampled_cases(cases(), stride=3, of=activate)))


class TestKeptPreviousKey:
    async def test_can_be_rolled_back_to(self, rotator: Rotator) -> None:
        credential_id = await rotator.create()
        rotation = await rotator.rotate(credential_id, REJECTION)

        await rotator.services[RollbackService].roll_back(rotator.caller, credential_id)

        assert await rotator.states(credential_id) == {1: VersionState.ACTIVE, 2: VersionState.PREVIOUS}
        assert (await rotator.read(rotation)).previous_kept_reason is None

    async def test_has_the_retention(self, rotator: Rotator) -> None:
        credential_id = await rotator.create()

        await rotator.rotate(credential_id, EDGE)

        (row,) = await fetch(
            rotator.superuser,
            "SELECT retires_at - replaced_at AS kept FROM credential_version"
            " WHERE credential_id = :id AND key_version = 1",
            id=credential_id,
        )
        assert row["kept"] == RETENTION

    async def test_is_destroyed_when_a_later_result_proves_the_new_key(self, rotator: Rotator) -> None:
        credential_id = await rotator.create()
        rotation = await rotator.rotate(credential_id, OUTAGE)
        assert rotation.previous_kept_reason is PreviousKept.INDETERMINATE

        await rotator.validate_active(credential_id, EDGE)
        assert (await rotator.states(credential_id))[1] is VersionState.PREVIOUS

        await rotator.validate_active(credential_id, PROOF)
        assert await rotator.states(credential_id) == {1: VersionState.DESTROYED, 2: VersionState.ACTIVE}
        assert (await rotator.read(rotation)).previous_kept_reason is None

    async def test_is_destroyed_when_a_later_rotation_has_a_proven_key(self, rotator: Rotator) -> None:
        credential_id = await rotator.create()
        await rotator.rotate(credential_id, OUTAGE)

        await rotator.rotate(credential_id, PROOF, destroy_previous=DestroyPrevious.AFTER_RETENTION)

        assert await rotator.states(credential_id) == {
            1: VersionState.DESTROYED,
            2: VersionState.PREVIOUS,
            3: VersionState.ACTIVE,
        }

    async def test_stays_after_a_rollback_took_back_the_request(self, rotator: Rotator) -> None:
        credential_id = await rotator.create()
        await rotator.rotate(credential_id, OUTAGE)
        await rotator.services[RollbackService].roll_back(rotator.caller, credential_id)

        await rotator.rotate(credential_id, PROOF, destroy_previous=DestroyPrevious.AFTER_RETENTION)

        states = await rotator.states(credential_id)
        assert (states[1], states[3]) == (VersionState.PREVIOUS, VersionState.ACTIVE)
