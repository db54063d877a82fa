"""When a replaced key may be revoked at the provider: the rule, case by case."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from app.core.clock import new_id
from app.credentials.records import VersionRecord, VersionState
from app.credentials.revocation import is_safe_to_revoke
from app.credentials.verdicts import PENDING
from app.provider_url.endpoint import AuthStyle, ProviderEndpoint

SWITCH = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
PREVIOUS = VersionRecord(
    credential_id=new_id(),
    key_version=1,
    state=VersionState.PREVIOUS,
    destination=ProviderEndpoint(
        base_url=None,
        messages_url="https://api.anthropic.com/v1/messages",
        auth_style=AuthStyle.X_API_KEY,
        workspace_id=None,
        probe_model=None,
    ),
    key_hint=None,
    fingerprint="v1:00",
    verdict=PENDING,
    latest=PENDING,
    created_at=SWITCH - timedelta(days=1),
    created_by="ada@acme.example",
    activated_at=SWITCH - timedelta(days=1),
    retires_at=SWITCH + timedelta(hours=72),
    destroyed_at=None,
    last_used_at=None,
    replaced_at=SWITCH,
    leased_until=None,
)


def after(seconds: float) -> datetime:
    """So long after the switch; before it, if negative."""
    return SWITCH + timedelta(seconds=seconds)


class TestSafeToRevoke:
    @pytest.mark.parametrize(
        ("used", "leased_until", "checked_until", "now", "is_safe"),
        [
            pytest.param(None, None, None, 0, True, id="never used, from the switch on"),
            pytest.param(-60, None, None, 0, True, id="used before the switch alone"),
            pytest.param(0, None, None, 0, True, id="used at the very switch"),
            pytest.param(1, None, None, 2, False, id="used after the switch"),
            pytest.param(1, None, None, 1_000_000, False, id="used after the switch, long ago"),
            pytest.param(-5, 55, None, 10, False, id="a lease of before can still be opened"),
            pytest.param(-5, 55, None, 54.9, False, id="its last moment"),
            pytest.param(-5, 55, None, 55, True, id="it has expired"),
            pytest.param(-500, -440, None, 0, True, id="its last lease expired before the switch"),
            pytest.param(30, 55, None, 60, True, id="used after the switch, by a lease of before"),
            pytest.param(30, 55, None, 40, False, id="and that lease runs"),
            pytest.param(56, 55, None, 60, False, id="used later than any lease allows"),
            pytest.param(None, None, 15, 10, False, id="a check is under way"),
            pytest.param(None, None, 15, 15, True, id="the check is past its bound"),
            pytest.param(10, None, 15, 20, False, id="a check explains no use"),
            pytest.param(-5, 5, 15, 10, False, id="the lease expired, the check goes on"),
            pytest.param(None, None, None, -1, False, id="a clock that is behind"),
        ],
    )
    def test_when_nobody_can_be_at_work_with_it(
        self,
        used: float | None,
        leased_until: float | None,
        checked_until: float | None,
        now: float,
        is_safe: bool,
    ) -> None:
        previous = replace(
            PREVIOUS,
            last_used_at=None if used is None else after(used),
            leased_until=None if leased_until is None else after(leased_until),
        )

        found = is_safe_to_revoke(
            previous, checked_until=None if checked_until is None else after(checked_until), now=after(now)
        )

        assert found is is_safe

    def test_not_where_nobody_noted_when_it_was_replaced(self) -> None:
        unnoted = replace(PREVIOUS, replaced_at=None)

        assert not is_safe_to_revoke(unnoted, checked_until=None, now=after(1_000_000))
