"""What must be true of a credential and its keys once a run and the sweep are over, whatever interrupted the run."""

from dataclasses import dataclass
from operator import itemgetter
from typing import Any, TypeAlias
from uuid import UUID

from app.composition.reconciler import Reconciler
from app.core.api_key import ApiKey
from app.core.services import Services
from app.secret_store.port import SecretRef
from tests.integration.services.workplace import Workplace
from tests.rows import change

LIVE = ("active", "previous")
MOST_SWEEPS = 8
TABLES = (
    *("provider_credential", "credential_version", "credential_rotation", "credential_validation"),
    *("fingerprint_claim", "job_queue"),
)
Seen: TypeAlias = dict[str, list[dict[str, Any]]]


@dataclass(frozen=True, kw_only=True)
class Bench:
    """A credential that something is being done to, and the keys that it was given."""

    place: Workplace
    credential_id: UUID
    keys: list[ApiKey]

    async def settle(self, services: Services | None = None) -> None:
        """Deadlines pass, retention does not: sweep until nothing but retired keys waits."""
        for _ in range(MOST_SWEEPS):
            waiting = await change(
                self.place.owner,
                "UPDATE job_queue SET due_at = now() - interval '1 second'"
                " WHERE organization_id = :organization AND kind <> 'revalidate'"
                " AND NOT (kind = 'destroy_version' AND due_at > now() + interval '1 hour')",
                organization=self.place.organization,
            )
            if not waiting:
                return
            await (services or self.place.healthy)[Reconciler].run()
        raise AssertionError("the sweep does not come to rest")

    async def versions(self) -> list[dict[str, Any]]:
        """Those of every key that was given, the first one first."""
        return sorted(await self.place.rows("credential_version"), key=itemgetter("key_version"))

    async def let_retention_pass(self) -> None:
        await self.place.sweep()

    async def assert_sound(self) -> None:
        """Database and store agree, nothing is stuck, and what is kept is kept until its time."""
        await self._assert_sound(await self._look())

    async def assert_at_rest(self) -> None:
        """Nothing is left to do at all."""
        seen = await self._look()
        assert seen["job_queue"] == [], "work is left over"
        await self._assert_sound(seen)

    async def _look(self) -> Seen:
        seen = await self.place.look(*TABLES)
        # Periodic checks are nothing left over.
        seen["job_queue"] = [row for row in seen["job_queue"] if row["kind"] != "revalidate"]
        return seen

    async def _assert_sound(self, seen: Seen) -> None:
        await self._assert_secrets(seen)
        _assert_nothing_stuck(seen)
        versions, (credential,) = seen["credential_version"], seen["provider_credential"]
        active = [row["key_version"] for row in versions if row["state"] == "active"]
        if credential["state"] in ("active", "disabled"):
            assert active == [credential["current_key_version"]], "not exactly one key in use"
        else:
            assert credential["state"] == "deleted"
            assert not any(row["state"] in LIVE for row in versions), "a deleted credential has a live key"
        previous = {row["key_version"] for row in versions if row["state"] == "previous"}
        shown = credential["previous_key_version"]
        assert (shown in previous) if previous else shown is None, "what a rollback would restore"
        _assert_kept_until_its_time(seen)

    async def _assert_secrets(self, seen: Seen) -> None:
        live = [row for row in seen["credential_version"] if row["state"] in LIVE]
        pointed_at = {(row["credential_id"], row["store_version"]) for row in live}
        assert await self.place.vessel.secrets(self.place.organization) == pointed_at, (
            "an orphan or a dangling row"
        )
        ref = SecretRef(organization_id=self.place.organization, credential_id=self.credential_id)
        for row in live:
            key = await self.place.vessel.store.read(ref, row["store_version"])
            assert key in self.keys
            named = await self.place.vessel.store.fingerprint(self.place.organization, key)
            assert named == row["fingerprint"], "a version holds another version's key"
        claimed = {row["fingerprint"] for row in seen["fingerprint_claim"]}
        assert claimed == {row["fingerprint"] for row in live}, "claims and live keys differ"


def _assert_nothing_stuck(seen: Seen) -> None:
    versions = seen["credential_version"]
    assert not {row["state"] for row in versions} & {"intent", "stored"}, "a version is stuck"
    gone = [row for row in versions if row["state"] in ("destroyed", "rejected")]
    assert all(row["destroyed_at"] for row in gone), "a destroyed version is not stamped"
    for table, column in (("credential_rotation", "state"), ("credential_validation", "status")):
        assert "pending" not in {row[column] for row in seen[table]}, table


def _assert_kept_until_its_time(seen: Seen) -> None:
    queued = {(row["kind"], row["id"]): row["due_at"] for row in seen["job_queue"]}
    kept = {
        ("destroy_version", row["intent_id"]): row["retires_at"]
        for row in seen["credential_version"]
        if row["state"] == "previous"
    }
    assert queued == kept, "what is queued is not what retires"
