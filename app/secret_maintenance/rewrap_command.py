"""Rewraps all secrets in Vault under the newest transit keys, one version at a time, while the service runs.

The job queue holds the remaining work, so the next run continues an interrupted one. Only one runs at a time.
"""

from collections.abc import AsyncIterator, Sequence
from enum import Enum, auto
from typing import Protocol
from uuid import UUID

from app.audit import service as audit
from app.audit.events import AuditAction
from app.core.clock import new_id, now
from app.credentials.rotations import has_store_capacity
from app.credentials.service import INTENT_DEADLINE
from app.database.cells.directory import in_cell
from app.database.unit_of_work import USE_CELL, UnitsOfWork
from app.jobs.queue import DueItem, JobKind, QueueRepository
from app.secret_maintenance.inventory import lock_live_versions, lock_row, record_event, resolve_kind
from app.secret_maintenance.inventory_repository import SecretInventoryRepository, StoredSecret
from app.secret_maintenance.progress import PAGE, OperationRefused, Progress, ProgressCounter, operator_caller
from app.secret_maintenance.records import Rewrap, RewrapState
from app.secret_maintenance.repository import RewrapRepository
from app.secret_maintenance.rewrap_steps import RewrapSteps, reconcile_item
from app.secret_store.port import CasMismatch, SecretCorrupt, SecretMissing, SecretRef, SecretStore

# A credential that the service is changing is tried again in the next pass.
_MAX_PASSES = 5


class RewrappingStore(SecretStore, Protocol):
    """A store whose encryption keys have versions: Vault, and the tests' wrappers of it."""

    async def is_outdated(self, ref: SecretRef, store_version: int) -> bool: ...

    async def rewrap(
        self, ref: SecretRef, store_version: int, *, intent_id: UUID, expected_version: int
    ) -> int: ...

    async def rotate_key(self, organization_id: str) -> None: ...


class _Outcome(Enum):
    """What happened to a credential or endpoint."""

    DONE = auto()
    BUSY = auto()  # the service is changing it
    FULL = auto()  # the store would drop its oldest kept version
    UNDECRYPTABLE = auto()


class RewrapCommand:
    """`byok rewrap-secrets`."""

    def __init__(self, units: UnitsOfWork, store: RewrappingStore, progress: Progress) -> None:
        self._units = units
        self._store = store
        self._rewraps = RewrapSteps(units, store)
        self._progress = progress

    async def run(self, *, rotate_keys: bool) -> None:
        """Rewrap all secrets, or continue an interrupted run.

        Raises:
            OperationRefused, SecretStoreUnavailable, DatabaseUnavailable
        """
        await self._fill_queue(rotate_keys=rotate_keys)
        await self._rotate_keys()
        stuck: dict[_Outcome, list[str]] = {}
        for _ in range(_MAX_PASSES):
            stuck = await self._run_pass()
            if not stuck.get(_Outcome.BUSY):
                break
        self._raise_if_incomplete(stuck)

    async def _fill_queue(self, *, rotate_keys: bool) -> None:
        """Queue all work of all cells in one transaction, unless work of an interrupted run is left."""
        kinds = (JobKind.ROTATE_TRANSIT_KEY, JobKind.REWRAP_SECRETS)
        if any([await self._count(kind) for kind in kinds]):
            self._progress("continuing an interrupted run")
            return
        cells = await self._units.cells()
        async with self._units.unscoped(QueueRepository) as (queue, session):
            for cell in cells:
                if len(cells) > 1:
                    await session.first(USE_CELL, cell=cell)
                for kind in kinds if rotate_keys else kinds[1:]:
                    await queue.enqueue_all(kind)
            await session.commit()

    async def _rotate_keys(self) -> None:
        counter = ProgressCounter(
            self._progress, "transit keys rotated", await self._count(JobKind.ROTATE_TRANSIT_KEY)
        )
        async for item in self._queued_items(JobKind.ROTATE_TRANSIT_KEY):
            # If the process dies after this call, the next run adds one version more than necessary.
            await self._store.rotate_key(item.organization_id)
            caller = operator_caller(item.organization_id)
            async with self._units.writing(item.organization_id) as uow:
                await audit.record(uow, caller, AuditAction.TRANSIT_KEY_ROTATED, None)
                await uow[QueueRepository].remove(item)
                await uow.commit()
            counter.add()
        if counter.done:
            counter.report()

    async def _run_pass(self) -> dict[_Outcome, list[str]]:
        stuck: dict[_Outcome, list[str]] = {}
        counter = ProgressCounter(
            self._progress,
            "credentials and endpoints under the newest keys",
            await self._count(JobKind.REWRAP_SECRETS),
        )
        async for item in self._queued_items(JobKind.REWRAP_SECRETS):
            outcome = await self._rewrap_credential(
                SecretRef(organization_id=item.organization_id, credential_id=item.id)
            )
            if outcome is not _Outcome.DONE:
                stuck.setdefault(outcome, []).append(f"{item.organization_id}/{item.id}")
                continue
            async with self._units.writing(item.organization_id) as uow:
                await uow[QueueRepository].remove(item)
                await uow.commit()
            counter.add()
        counter.report()
        return stuck

    def _raise_if_incomplete(self, stuck: dict[_Outcome, list[str]]) -> None:
        if full := stuck.get(_Outcome.FULL):
            raise OperationRefused(
                "too many versions: one more would push out a key that is kept. Destroy the previous versions and rotate"
                " these credentials, then run the command again",
                *full,
            )
        if undecryptable := stuck.get(_Outcome.UNDECRYPTABLE):
            raise OperationRefused(
                "Vault cannot decrypt these. Restore Vault or delete them, then run the command again",
                *undecryptable,
            )
        if busy := stuck.get(_Outcome.BUSY):
            raise OperationRefused("the service is changing these. Run the command again", *busy)

    async def _rewrap_credential(self, ref: SecretRef) -> _Outcome:
        """Rewrap the secrets of one credential or endpoint, oldest first, because the oldest may be pushed out."""
        async with self._units.reading(ref.organization_id) as uow:
            ref = await resolve_kind(uow, ref)
            unfinished = await uow[RewrapRepository].find(ref.credential_id)
            secrets = await uow[SecretInventoryRepository].list_for(ref.credential_id)
        if unfinished is not None:  # left by an interrupted run: only one runs at a time
            await self._rewraps.reconcile(ref.organization_id, unfinished.intent_id)
            return await self._rewrap_credential(ref)
        for secret in secrets:
            try:
                if not await self._store.is_outdated(ref, secret.store_version):
                    continue
            except SecretMissing:
                return await self._gone_or_changed(ref, secret)
            except SecretCorrupt:
                return _Outcome.UNDECRYPTABLE
            outcome = await self._rewrap(ref, secret)
            if outcome is not _Outcome.DONE:
                return outcome
        return _Outcome.DONE

    async def _gone_or_changed(self, ref: SecretRef, secret: StoredSecret) -> _Outcome:
        async with self._units.reading(ref.organization_id) as uow:
            secrets = await uow[SecretInventoryRepository].list_for(ref.credential_id)
        return _Outcome.UNDECRYPTABLE if secret in secrets else _Outcome.BUSY

    async def _rewrap(self, ref: SecretRef, secret: StoredSecret) -> _Outcome:
        begun = await self._begin(ref, secret, await self._store.current_version(ref))
        if isinstance(begun, _Outcome):
            return begun
        written = None
        try:
            written = await self._store.rewrap(
                ref,
                secret.store_version,
                intent_id=begun.intent_id,
                expected_version=begun.expected_store_version,
            )
        except (CasMismatch, SecretMissing):
            pass  # another write or the destruction of the key came first
        except SecretCorrupt:
            await self._rewraps.reconcile(ref.organization_id, begun.intent_id)
            return _Outcome.UNDECRYPTABLE
        is_moved = written is not None and await self._set_store_version(ref, begun, written)
        await self._rewraps.reconcile(ref.organization_id, begun.intent_id)
        return _Outcome.DONE if is_moved else _Outcome.BUSY

    async def _begin(self, ref: SecretRef, secret: StoredSecret, current_version: int) -> Rewrap | _Outcome:
        """Step 1: record the rewrap. Returns BUSY or FULL if it cannot start."""
        rewrap = Rewrap(
            intent_id=new_id(),
            credential_id=ref.credential_id,
            key_version=secret.key_version,
            state=RewrapState.INTENT,
            from_store_version=secret.store_version,
            expected_store_version=current_version,
        )
        async with self._units.writing(ref.organization_id) as uow:
            live_versions = await lock_live_versions(uow, ref)
            is_unchanged = secret in await uow[SecretInventoryRepository].list_for(ref.credential_id)
            if (
                live_versions.is_writing
                or not is_unchanged
                or max(live_versions.store_versions) > current_version
            ):
                return _Outcome.BUSY
            if not has_store_capacity(min(live_versions.store_versions), current_version):
                return _Outcome.FULL
            await uow[RewrapRepository].insert(rewrap)
            await uow[QueueRepository].add(
                reconcile_item(ref.organization_id, rewrap.intent_id), due_at=now() + INTENT_DEADLINE
            )
            await uow.commit()
        return rewrap

    async def _set_store_version(self, ref: SecretRef, rewrap: Rewrap, written: int) -> bool:
        """Step 3: set the row's store version."""
        details = {} if rewrap.key_version is None else {"key_version": rewrap.key_version}
        async with self._units.writing(ref.organization_id) as uow:
            await lock_row(uow, ref)
            if not await uow[RewrapRepository].transition(
                rewrap.intent_id, expected=RewrapState.INTENT, to=RewrapState.MOVED
            ) or not await uow[RewrapRepository].set_store_version(rewrap, written):
                return False
            await record_event(uow, ref, AuditAction.SECRET_REWRAPPED, store="vault", **details)
            await uow.commit()
        return True

    async def _count(self, kind: JobKind) -> int:
        return sum([await self._count_in(cell, kind) for cell in await self._units.cells()])

    async def _count_in(self, cell: str, kind: JobKind) -> int:
        with in_cell(cell):
            async with self._units.unscoped(QueueRepository) as (queue, _):
                return await queue.count(kind)

    async def _queued_items(self, kind: JobKind) -> AsyncIterator[DueItem]:
        for cell in await self._units.cells():
            after: DueItem | None = None
            while page := await self._page(cell, kind, after):
                for item in page:
                    yield item
                after = page[-1]

    async def _page(self, cell: str, kind: JobKind, after: DueItem | None) -> Sequence[DueItem]:
        with in_cell(cell):
            async with self._units.unscoped(QueueRepository) as (queue, _):
                return await queue.page(kind, after=after, at_most=PAGE)
