"""Operations on a credential and its keys, to run under injected faults."""

from collections.abc import Awaitable, Callable
from typing import TypeAlias

from app.core.clock import new_id
from app.core.keys.api_key import ApiKey
from app.core.services import Services
from app.credentials.deletion import DeletionReceipt, DeletionService
from app.credentials.enablement import EnablementService
from app.credentials.records import Activate, CredentialRecord, DestroyPrevious
from app.credentials.rotations import RotationRecord
from app.rotation.rollback import RollbackService
from app.rotation.service import NewKey, RotationService
from tests.support.credentials.invariants import CredentialUnderTest
from tests.support.credentials.organization_harness import make_key

OperationResult: TypeAlias = RotationRecord | CredentialRecord | DeletionReceipt | None
Operation: TypeAlias = Callable[[CredentialUnderTest, Services], Awaitable[OperationResult]]


def rotation(
    activate: Activate = Activate.WHEN_VALID,
    destroy_previous: DestroyPrevious = DestroyPrevious.AFTER_RETENTION,
    *,
    same_key: bool = False,
) -> Operation:
    async def rotate(under_test: CredentialUnderTest, services: Services) -> OperationResult:
        key = under_test.keys[-1] if same_key else make_key()
        under_test.keys.append(key)
        return await services[RotationService].rotate(
            under_test.harness.caller,
            under_test.credential_id,
            new_key(key, activate=activate, destroy_previous=destroy_previous),
            rotation_id=new_id(),
        )

    return rotate


def new_key(
    key: ApiKey,
    *,
    activate: Activate = Activate.WHEN_VALID,
    destroy_previous: DestroyPrevious = DestroyPrevious.AFTER_RETENTION,
) -> NewKey:
    return NewKey(
        key=key,
        activate=activate,
        destroy_previous=destroy_previous,
        provided_fields=frozenset(),
        base_url=None,
        auth_style=None,
        workspace_id=None,
        probe_model=None,
    )


async def roll_back(under_test: CredentialUnderTest, services: Services) -> OperationResult:
    return await services[RollbackService].roll_back(under_test.harness.caller, under_test.credential_id)


async def destroy_version(under_test: CredentialUnderTest, services: Services) -> OperationResult:
    await services[DeletionService].destroy_version(under_test.harness.caller, under_test.credential_id, 1)
    return None


async def destroy_pending_version(under_test: CredentialUnderTest, services: Services) -> OperationResult:
    """Destroy a version whose rotation is pending, which cancels the rotation."""
    await rotation()(under_test, under_test.harness.services_with_overloaded_provider)
    await services[DeletionService].destroy_version(under_test.harness.caller, under_test.credential_id, 2)
    return None


async def rotate_and_cancel(under_test: CredentialUnderTest, services: Services) -> OperationResult:
    """Rotate to a key whose validation is indeterminate, and cancel the pending rotation."""
    pending = await rotation()(under_test, under_test.harness.services_with_overloaded_provider)
    assert isinstance(pending, RotationRecord)
    return await services[RotationService].cancel(
        under_test.harness.caller, under_test.credential_id, pending.id
    )


async def delete(under_test: CredentialUnderTest, services: Services) -> OperationResult:
    return await services[DeletionService].delete(
        under_test.harness.caller, under_test.credential_id, force=False
    )


async def disable(under_test: CredentialUnderTest, services: Services) -> OperationResult:
    return await services[EnablementService].disable(under_test.harness.caller, under_test.credential_id)


async def enable(under_test: CredentialUnderTest, services: Services) -> OperationResult:
    await disable(under_test, under_test.harness.healthy_services)
    return await services[EnablementService].enable(under_test.harness.caller, under_test.credential_id)


async def destroy_expired_version(under_test: CredentialUnderTest, services: Services) -> OperationResult:
    """Let the retention expire and reconcile."""
    await under_test.harness.reconcile(services)
    return None


ACTIVATE_NOW, DESTROY_PREVIOUS = Activate.IMMEDIATELY, DestroyPrevious.IMMEDIATELY
# Each operation, with the number of keys that the credential has had before it.
OPERATIONS: dict[str, tuple[Operation, int]] = {
    "rotate": (rotation(), 1),
    "rotate, destroy the previous key": (rotation(destroy_previous=DESTROY_PREVIOUS), 1),
    "rotate immediately": (rotation(ACTIVATE_NOW), 1),
    "rotate immediately, destroy the previous key": (rotation(ACTIVATE_NOW, DESTROY_PREVIOUS), 1),
    "rotate to the same key": (rotation(same_key=True), 1),
    "rotate a second time": (rotation(), 2),
    "roll back": (roll_back, 2),
    "destroy a version": (destroy_version, 2),
    "destroy a pending version": (destroy_pending_version, 1),
    "delete": (delete, 2),
    "disable": (disable, 2),
    "enable": (enable, 2),
    "destroy an expired version": (destroy_expired_version, 2),
}
