"""SQL of the relay: the journal of open calls.

A call is an open reservation with `last_seen_at`. It ends when its event settles the reservation, or its release does.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

import sqlalchemy as sa

from app.database.repository import Repository
from app.database.statements import Query, Row
from app.relay.records import (
    LOST_AFTER_SECONDS,
    AdmittedCall,
    CallRequest,
    Destination,
    Dimensions,
)
from app.usage_mode.modes import UsageMode

# The lock on the version lets its replacement wait for this transaction, so that a reader who sees the version replaced
# also sees every call that was admitted with it. It comes after the locks on counters, as in ingestion.
_RECORD = Query(
    sa.text("""
    WITH used AS MATERIALIZED (
        SELECT 1 FROM credential_version v WHERE v.organization_id = CAST(:organization_id AS text)
            AND v.credential_id = CAST(:credential_id AS uuid) AND v.key_version = CAST(:key_version AS integer)
            AND v.state = 'active'
        FOR SHARE
    )
    UPDATE spend_reservation r SET session_id = x.session_id, prompt_id = x.prompt_id,
        input_estimate = x.input_estimate, credential_id = CAST(:credential_id AS uuid),
        key_version = CAST(:key_version AS integer), last_seen_at = r.created_at
    FROM unnest(CAST(:ids AS uuid[]), CAST(:session_ids AS text[]), CAST(:prompt_ids AS text[]),
        CAST(:input_estimates AS integer[])) AS x (id, session_id, prompt_id, input_estimate)
    WHERE r.organization_id = CAST(:organization_id AS text) AND r.id = x.id
        AND (CAST(:credential_id AS uuid) IS NULL OR EXISTS (SELECT 1 FROM used))
""")
)
# Citus accepts no volatile function in an UPDATE.
_REPORT = Query(
    sa.text("""
    UPDATE spend_reservation r SET last_seen_at = statement_timestamp(),
        usage_so_far = coalesce(x.usage_so_far, r.usage_so_far)
    FROM unnest(CAST(:ids AS uuid[]), CAST(:usages AS text[])) AS x (id, usage_so_far)
    WHERE r.organization_id = CAST(:organization_id AS text) AND r.id = x.id AND r.state = 'open'
""")
)
_LOST = Query(
    sa.text("""
    SELECT r.* FROM spend_reservation r
    WHERE r.organization_id = CAST(:organization_id AS text) AND r.state = 'open'
        AND r.last_seen_at < clock_timestamp() - make_interval(secs => CAST(:seconds AS integer))
    ORDER BY r.id LIMIT CAST(:at_most AS integer)
""")
)
_ORGANIZATIONS = Query(
    sa.text("""
    SELECT o.id FROM organizations_with_lost_calls(
        clock_timestamp() - make_interval(secs => CAST(:seconds AS integer)), CAST(:at_most AS integer)) AS o (id)
""")
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LostCall:
    """A call that no process handles any more. `usage_so_far` is what it reported last, if it reported anything."""

    call: AdmittedCall
    usage_so_far: bytes | None


class CallRepository(Repository):
    """The open calls of one organization."""

    async def record(self, requests: Sequence[CallRequest], destination: Destination | None) -> bool:
        """Make calls of reservations of this transaction. Returns False if the key version is not active any more."""
        recorded = await self._session.execute(
            _RECORD,
            organization_id=self._organization_id,
            credential_id=None if destination is None else destination.credential_id,
            key_version=None if destination is None else destination.key_version,
            ids=[one.id for one in requests],
            session_ids=[one.dimensions.session_id for one in requests],
            prompt_ids=[one.dimensions.prompt_id for one in requests],
            input_estimates=[one.input_tokens for one in requests],
        )
        return bool(recorded)

    async def report(self, usages: Sequence[tuple[UUID, bytes | None]]) -> None:
        """Record that these calls are in progress, and their usage so far."""
        await self._session.execute(
            _REPORT,
            organization_id=self._organization_id,
            ids=[call_id for call_id, _ in usages],
            usages=[None if usage is None else usage.decode() for _, usage in usages],
        )

    async def organizations_with_lost(self, *, at_most: int) -> Sequence[str]:
        """Ids of organizations with lost calls."""
        found = await self._session.rows(_ORGANIZATIONS, seconds=LOST_AFTER_SECONDS, at_most=at_most)
        return [row["id"] for row in found]

    async def lost(self, *, at_most: int) -> Sequence[LostCall]:
        """Calls that no process has reported for too long."""
        found = await self._session.rows(
            _LOST, organization_id=self._organization_id, seconds=LOST_AFTER_SECONDS, at_most=at_most
        )
        return [_lost_call(row, self._organization_id) for row in found]


def _lost_call(row: Row, organization_id: str) -> LostCall:
    request = CallRequest(
        id=row["id"],
        subject=row["created_by"],
        model=row["model"],
        max_tokens=0,
        input_tokens=row["input_estimate"] or 0,
        is_stream=False,
        dimensions=Dimensions(
            endpoint_id=row["endpoint_id"],
            feature=row["feature"],
            session_id=row["session_id"],
            prompt_id=row["prompt_id"],
        ),
    )
    call = AdmittedCall(
        organization_id=organization_id,
        request=request,
        started_at=row["created_at"],
        mode=UsageMode(row["mode"]),
        credential_id=row["credential_id"],
        key_version=row["key_version"],
    )
    usage = row["usage_so_far"]
    return LostCall(call=call, usage_so_far=None if usage is None else usage.encode())
