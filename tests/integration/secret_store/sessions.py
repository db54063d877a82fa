"""Sessions of tests with Vault: what they ask, and what to wait for."""

import pytest

from app.secret_store.vault.responses import Answer, VaultReason, VaultUnavailable
from app.secret_store.vault.session import VaultLogin, VaultSession
from tests.fake_vault import FakeVault
from tests.waiting import until

APPROLE = VaultLogin(method="approle", role_id="writer", secret_id="secret id")
LOGIN_PATHS = "/login"


class Clock:
    """Seconds that pass when told."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


async def ask(session: VaultSession) -> Answer:
    return await session.call(lambda vault: vault.read("kv/config"))


async def refusal_of(session: VaultSession) -> VaultReason:
    with pytest.raises(VaultUnavailable) as refusal:
        await ask(session)
    return refusal.value.reason


async def asked(fake: FakeVault, path: str, times: int) -> None:
    """Wait until the fake was asked that often."""

    async def count() -> int:
        return len(fake.paths(path))

    await until(count, lambda count: count >= times)


async def refreshed(session: VaultSession) -> None:
    """Wait for what a call began in the background."""
    assert session._flight is not None
    await session._flight
