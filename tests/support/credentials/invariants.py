"""Invariants of a credential and its keys that must hold after reconciliation, whatever interrupted the run."""

from dataclasses import dataclass
from operator import itemgetter
from typing import Any, TypeAlias
from uuid import UUID

from app.composition.reconciler import Reconciler
from app.core.keys.api_key import ApiKey
from app.core.services import Services
from app.secret_store.port import SecretRef
from tests.support.credentials.organization_harness import OrganizationHarness
from tests.support.database.rows import change

LIVE = ("active", "previous")
MAX_RUNS = 8
TABLES = (
    *("provider_credential", "credential_version", "credential_rotation", "credential_validation"),
    *("fingerprint_claim", "job_queue"),
)
Snapshot: TypeAlias = dict[str, list[dict[str, Any]]]


@dataclass(frozen=True, kw_only=True)
class CredentialUnderTest:
    """A credential to run operations on, and all keys that it has had."""

    harness: OrganizationHarness
    credential_id: UUID
    keys: list[ApiKey]

    async def reconcile_everything(self, services: Services | None = None) -> None:
        """Make all queue items due except those of kept versions, and reconcile until none of them is left."""
        for _ in range(MAX_RUNS):
            waiting = await change(
                self.harness.superuser,
                "UPDATE job_queue SET due_at = now() - interval '1 second'"
                " WHERE organization_id = :organization AND kind <> 'revalidate'"
                " AND NOT (kind = 'destroy_version' AND due_at > now() + interval '1 hour')",
                organization=self.harness.organization,
            )
            if not waiting:
                return
            await (services or self.harness.healthy_services)[Reconciler].run()
        raise AssertionError("reconciliation does not finish")

    async def versions(self) -> list[dict[str, Any]]:
        """The rows of all versions, oldest first."""
        return sorted(await self.harness.rows("credential_version"), key=itemgetter("key_version"))

    async def expire_retention(self) -> None:
        await self.harness.reconcile()

    async def assert_consistent(self) -> None:
        """Check that database and store agree, nothing is pending, and kept versions have a scheduled destruction."""
        await self._assert_consistent(await self._take_snapshot())

    async def assert_no_work_left(self) -> None:
        """Check that the state is consistent and the queue is empty."""
        snapshot = await self._take_snapshot()
        assert snapshot["job_queue"] == [], "queue items are left"
        await self._assert_consistent(snapshot)

    async def _take_snapshot(self) -> Snapshot:
        snapshot = await self.harness.snapshot(*TABLES)
        # Periodic validations always stay in the queue.
        snapshot["job_queue"] = [row for row in snapshot["job_queue"] if row["kind"] != "revalidate"]
        return snapshot

    async def _assert_consistent(self, snapshot: Snapshot) -> None:
        await self._assert_secrets(snapshot)
        _assert_nothing_is_pending(snapshot)
        versions, (credential,) = snapshot["credential_version"], snapshot["provider_credential"]
        active = [row["key_version"] for row in versions if row["state"] == "active"]
        if credential["state"] in ("active", "disabled"):
            assert active == [credential["current_key_version"]], "not exactly one active version"
        else:
            assert credential["state"] == "deleted"
            assert not any(row["state"] in LIVE for row in versions), "a deleted credential has a live key"
        previous = {row["key_version"] for row in versions if row["state"] == "previous"}
        shown = credential["previous_key_version"]
        assert (shown in previous) if previous else shown is None, "wrong rollback target"
        _assert_destruction_is_scheduled(snapshot)

    async def _assert_secrets(self, snapshot: Snapshot) -> None:
        live = [row for row in snapshot["credential_version"] if row["state"] in LIVE]
        referenced = {(row["credential_id"], row["store_version"]) for row in live}
        assert await self.harness.store_variant.secrets(self.harness.organization) == referenced, (
            "an orphaned secret or a dangling row"
        )
        ref = SecretRef(organization_id=self.harness.organization, credential_id=self.credential_id)
        for row in live:
            key = await self.harness.store_variant.store.read(ref, row["store_version"])
            assert key in self.keys
            fingerprint = await self.harness.store_variant.store.fingerprint(self.harness.organization, key)
            assert fingerprint == row["fingerprint"], "a version holds another version's key"
        claimed = {row["fingerprint"] for row in snapshot["fingerprint_claim"]}
        assert claimed == {row["fingerprint"] for row in live}, "claims and live keys differ"


def _assert_nothing_is_pending(snapshot: Snapshot) -> None:
    versions = snapshot["credential_version"]
    assert not {row["state"] for row in versions} & {"intent", "stored"}, "a version is pending"
    destroyed = [row for row in versions if row["state"] in ("destroyed", "rejected")]
    assert all(row["destroyed_at"] for row in destroyed), "a destroyed version has no time of destruction"
    for table, column in (("credential_rotation", "state"), ("credential_validation", "status")):
        assert "pending" not in {row[column] for row in snapshot[table]}, table


def _assert_destruction_is_scheduled(snapshot: Snapshot) -> None:
    queued = {(row["kind"], row["id"]): row["due_at"] for row in snapshot["job_queue"]}
    kept = {
        ("destroy_version", row["intent_id"]): row["retires_at"]
        for row in snapshot["credential_version"]
        if row["state"] == "previous"
    }
    assert queued == kept, "queue items and kept versions differ"
