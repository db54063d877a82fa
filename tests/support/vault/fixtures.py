"""Fixtures: a real Vault if one is available, the fake, and both after `byok vault-setup`."""

from collections.abc import AsyncIterator, Iterator

import pytest

from tests.support.vault.fake import ROOT, ServedVault, serve
from tests.support.vault.prepared import PreparedVault, prepared_vault
from tests.support.vault.real_server import RealServer, is_real_vault_available, real_server


@pytest.fixture(scope="session")
def vault_server() -> Iterator[RealServer]:
    if not is_real_vault_available():
        pytest.skip("needs a real Vault or OpenBao")
    with real_server() as server:
        yield server


@pytest.fixture(scope="session")
async def real_vault(vault_server: RealServer) -> AsyncIterator[PreparedVault]:
    """A real server after `byok vault-setup`."""
    async with prepared_vault(vault_server.address, vault_server.token) as prepared:
        yield prepared


@pytest.fixture(scope="session")
async def shared_vault() -> AsyncIterator[ServedVault]:
    async with serve() as served:
        yield served


@pytest.fixture(scope="session")
async def prepared_fake(shared_vault: ServedVault) -> AsyncIterator[PreparedVault]:
    async with prepared_vault(shared_vault.address, ROOT) as prepared:
        yield prepared


@pytest.fixture(params=["prepared_fake", *(["real_vault"] if is_real_vault_available() else [])])
def any_vault(request: pytest.FixtureRequest) -> PreparedVault:
    """The fake and, if available, a real server."""
    found: PreparedVault = request.getfixturevalue(request.param)
    return found
