"""Events of a credential that has had very many keys: an admin may rotate it each second for days."""

from datetime import datetime, timedelta

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.core.clock import now
from tests.support.database.rows import change
from tests.support.request_cost import cost_of
from tests.support.requests.rotation import switch_to_byo
from tests.support.requests.usage_events import Ledger, event

VERSIONS = 30_000
LOOP_SECONDS = 0.05
# Versions 2 to n + 1, each activated a minute after the one before, the last one a minute ago.
FILL = """
    INSERT INTO credential_version (organization_id, credential_id, key_version, state, intent_id, expected_store_version,
        store_version, messages_url, auth_style, fingerprint, created_at, created_by, activated_at, destroyed_at, latest_status)
    SELECT v.organization_id, v.credential_id, n + 1, 'destroyed', gen_random_uuid(), n, n + 1, v.messages_url, v.auth_style,
        v.fingerprint, at, 'ada', at, now(), 'valid'
    FROM credential_version v, generate_series(1, :versions) n,
        LATERAL (SELECT now() - (:versions + 1 - n) * interval '1 minute' AS at) x
    WHERE v.organization_id = :organization
"""
FIRST_LONG_AGO = "UPDATE credential_version SET activated_at = now() - interval '90 days' WHERE organization_id = :organization"
ROTATED = """
    INSERT INTO credential_rotation (organization_id, id, credential_id, key_version, state, activate, destroy_previous,
        created_at, created_by, decided_at)
    SELECT organization_id, gen_random_uuid(), credential_id, key_version, 'activated', 'immediately', 'immediately',
        created_at, created_by, activated_at FROM credential_version WHERE organization_id = :organization AND key_version > 1
"""


@pytest.fixture
async def credential_id(ledger: Ledger, superuser: AsyncEngine) -> str:
    """A credential that is used in mode `byo`, and has been rotated very often."""
    credential = await ledger.tenant.created()
    await switch_to_byo(ledger.tenant, credential["id"])
    organization = ledger.tenant.organization
    await change(superuser, FIRST_LONG_AGO, organization=organization)
    await change(superuser, FILL.replace(":versions", str(VERSIONS)), organization=organization)
    # Before the rotations too: with outdated statistics, each check of their foreign key could read all versions.
    await change(superuser, "ANALYZE credential_version")
    await change(superuser, ROTATED, organization=organization)
    await change(superuser, "ANALYZE credential_rotation")
    found: str = credential["id"]
    return found


def at_minute(number: int) -> datetime:
    """Half a minute after this version was activated."""
    return now() - timedelta(minutes=VERSIONS + 2 - number) + timedelta(seconds=30)


async def versions_of(ledger: Ledger, *events: dict[str, object]) -> dict[str, int | None]:
    await ledger.accepted(*events)
    return {row["event_id"]: row["key_version"] for row in await ledger.rows()}


class TestEvents:
    async def test_cost_no_more_than_those_of_other_credentials(
        self, ledger: Ledger, credential_id: str
    ) -> None:
        await ledger.post([event(credential_id=credential_id)])  # the first one compiles the statements

        response, cost = await cost_of(ledger.post([event(credential_id=credential_id)]))

        assert response.json()["accepted"] == 1, response.text
        assert cost.total_seconds <= LOOP_SECONDS, cost

    async def test_have_the_version_that_was_active(self, ledger: Ledger, credential_id: str) -> None:
        numbers = (VERSIONS + 1, VERSIONS, VERSIONS - 100, 20_000)
        events = [
            event(event_id=str(number), credential_id=credential_id, started_at=at_minute(number).isoformat())
            for number in numbers
        ]

        assert await versions_of(ledger, *events) == {str(number): number for number in numbers}

    async def test_may_name_an_earlier_version(self, ledger: Ledger, credential_id: str) -> None:
        events = [event(event_id="named", credential_id=credential_id, key_version=17)]

        assert await versions_of(ledger, *events) == {"named": 17}
        unknown = await ledger.post([event(credential_id=credential_id, key_version=VERSIONS + 2)])
        assert unknown.json()["results"][0]["code"] == "key_version_not_found"
