"""Helpers for tests of Vault sessions: a login, a clock, one request, and waiting."""

import pytest

from app.secret_store.vault.responses import VaultReason, VaultResponse, VaultUnavailable
from app.secret_store.vault.session import VaultLogin, VaultSession
from tests.support.polling import until
from tests.support.vault.fake import FakeVault

APPROLE = VaultLogin(method="approle", role_id="writer", secret_id="secret id")
LOGIN_PATHS = "/login"


class Clock:
    """A clock that the test advances."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


async def read_config(session: VaultSession) -> VaultResponse:
    return await session.call(lambda vault: vault.read("kv/config"))


async def failure_reason(session: VaultSession) -> VaultReason:
    with pytest.raises(VaultUnavailable) as refusal:
        await read_config(session)
    return refusal.value.reason


async def wait_until_received(fake: FakeVault, path: str, times: int) -> None:
    """Wait until the fake has received that many requests for the path."""

    async def count() -> int:
        return len(fake.requested_paths(path))

    await until(count, lambda count: count >= times)


async def wait_for_refresh(session: VaultSession) -> None:
    """Wait for the refresh that a call has started in the background."""
    assert session._refresh_task is not None
    await session._refresh_task
