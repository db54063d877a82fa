"""What must be true of a credential and its keys once a run and the sweep are over, whatever interrupted the run."""

from dataclasses import dataclass
from operator import itemgetter
from typing import Any
from uuid import UUID

from app.domain.api_keys import ApiKey
from app.secret_store.base import SecretRef
from app.services import Services
from tests.integration.services.workplace import Workplace
from tests.rows import change

LIVE = ("active", "previous")
MOST_SWEEPS = 8


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
            await (services or self.place.healthy).sweep.run()
        raise AssertionError("the sweep does not come to rest")

    async def versions(self) -> list[dict[str, Any]]:
        """Those of every key that was given, the first one first."""
        return sorted(await self.place.rows("credential_version"), key=itemgetter("key_version"))

    async def let_retention_pass(self) -> None:
        await self.place.sweep()

    async def assert_sound(self) -> None:
        """Database and store agree, nothing is stuck, and what is kept is kept until its time."""
        versions = await self.place.rows("credential_version")
        await self._assert_secrets(versions)
        await self._assert_nothing_stuck(versions)
        (credential,) = await self.place.rows("provider_credential")
        active = [row["key_version"] for row in versions if row["state"] == "active"]
        if credential["state"] in ("active", "disabled"):
            assert active == [credential["current_key_version"]], "not exactly one key in use"
        else:
            assert credential["state"] == "deleted"
            assert not any(row["state"] in LIVE for row in versions), "a deleted credential has a live key"
        previous = {row["key_version"] for row in versions if row["state"] == "previous"}
        shown = credential["previous_key_version"]
        assert (shown in previous) if previous else shown is None, "what a rollback would restore"
        await self._assert_kept_until_its_time(versions)

    async def assert_at_rest(self) -> None:
        """Nothing is left to do at all."""
        assert await self._queued() == [], "work is left over"
        await self.assert_sound()

    async def _assert_secrets(self, versions: list[dict[str, Any]]) -> None:
        live = [row for row in versions if row["state"] in LIVE]
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
        claimed = {row["fingerprint"] for row in await self.place.rows("fingerprint_claim")}
        assert claimed == {row["fingerprint"] for row in live}, "claims and live keys differ"

    async def _assert_nothing_stuck(self, versions: list[dict[str, Any]]) -> None:
        assert not {row["state"] for row in versions} & {"intent", "stored"}, "a version is stuck"
        gone = [row for row in versions if row["state"] in ("destroyed", "rejected")]
        assert all(row["destroyed_at"] for row in gone), "a destroyed version is not stamped"
        for table, column in (("credential_rotation", "state"), ("credential_validation", "status")):
            assert "pending" not in {row[column] for row in await self.place.rows(table)}, table

    async def _assert_kept_until_its_time(self, versions: list[dict[str, Any]]) -> None:
        queued = {(row["kind"], row["id"]): row["due_at"] for row in await self._queued()}
        kept = {
            ("destroy_version", row["intent_id"]): row["retires_at"]
            for row in versions
            if row["state"] == "previous"
        }
        assert queued == kept, "what is queued is not what retires"

    async def _queued(self) -> list[dict[str, Any]]:
        """Without periodic checks, which are nothing left over."""
        return [row for row in await self.place.rows("job_queue") if row["kind"] != "revalidate"]
