"""What is done to a credential and its keys while something interrupts it."""

from collections.abc import Awaitable, Callable
from typing import TypeAlias

from app.core.api_key import ApiKey
from app.core.clock import new_id
from app.core.services import Services
from app.credentials.deletion import DeletionReceipt, DeletionService
from app.credentials.enablement import EnablementService
from app.credentials.records import CredentialRecord
from app.credentials.rotations import Activate, DestroyPrevious, RotationRecord
from app.rotation.rollback import RollbackService
from app.rotation.service import NewKey, RotationService
from tests.integration.services.soundness import Bench
from tests.integration.services.workplace import make_key

Answer: TypeAlias = RotationRecord | CredentialRecord | DeletionReceipt | None
Deed: TypeAlias = Callable[[Bench, Services], Awaitable[Answer]]


def rotation(
    activate: Activate = Activate.WHEN_VALID,
    destroy_previous: DestroyPrevious = DestroyPrevious.AFTER_RETENTION,
    *,
    same_key: bool = False,
) -> Deed:
    async def rotate(bench: Bench, services: Services) -> Answer:
        key = bench.keys[-1] if same_key else make_key()
        bench.keys.append(key)
        return await services[RotationService].rotate(
            bench.place.caller,
            bench.credential_id,
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
        given=frozenset(),
        base_url=None,
        auth_style=None,
        workspace_id=None,
        probe_model=None,
    )


async def roll_back(bench: Bench, services: Services) -> Answer:
    return await services[RollbackService].roll_back(bench.place.caller, bench.credential_id)


async def destroy_version(bench: Bench, services: Services) -> Answer:
    await services[DeletionService].destroy_version(bench.place.caller, bench.credential_id, 1)
    return None


async def destroy_pending_version(bench: Bench, services: Services) -> Answer:
    """Its rotation was not decided yet, and is cancelled with it."""
    await rotation()(bench, bench.place.undecided)
    await services[DeletionService].destroy_version(bench.place.caller, bench.credential_id, 2)
    return None


async def delete(bench: Bench, services: Services) -> Answer:
    return await services[DeletionService].delete(bench.place.caller, bench.credential_id, force=False)


async def disable(bench: Bench, services: Services) -> Answer:
    return await services[EnablementService].disable(bench.place.caller, bench.credential_id)


async def enable(bench: Bench, services: Services) -> Answer:
    await disable(bench, bench.place.healthy)
    return await services[EnablementService].enable(bench.place.caller, bench.credential_id)


async def let_go(bench: Bench, services: Services) -> Answer:
    """The sweep itself, when the retention is over."""
    await bench.place.sweep(services)
    return None


NOW, GONE = Activate.IMMEDIATELY, DestroyPrevious.IMMEDIATELY
# What is done, and to how many keys it is done.
DEEDS: dict[str, tuple[Deed, int]] = {
    "rotate": (rotation(), 1),
    "rotate, destroy the key before": (rotation(destroy_previous=GONE), 1),
    "rotate at once": (rotation(NOW), 1),
    "rotate at once, destroy the key before": (rotation(NOW, GONE), 1),
    "rotate to the same key": (rotation(same_key=True), 1),
    "rotate a second time": (rotation(), 2),
    "roll back": (roll_back, 2),
    "destroy a version": (destroy_version, 2),
    "destroy a pending version": (destroy_pending_version, 1),
    "delete": (delete, 2),
    "disable": (disable, 2),
    "enable": (enable, 2),
    "let a kept key go": (let_go, 2),
}
