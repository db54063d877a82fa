"""The commands of compose.yaml, one by one, with a Vault whose namespace, mounts and logins `.env` sets.

They run without containers. tests/deployment/test_image.py runs them in the image.
"""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from app.secret_store.vault.client import VaultServer
from app.secret_store.vault.responses import expect_success, text_field
from app.secret_store.vault.roles import VaultRole
from app.secret_store.vault.session import VaultLogin, VaultSession
from app.settings.groups.storage import VaultSettings
from app.settings.settings import Settings
from app.settings.variables import group_of
from tests.support.database.bare_servers import BareServer, bare_server, installations
from tests.support.deployment.compose import compose_services
from tests.support.processes.commands import byok
from tests.support.processes.service import running
from tests.support.provider.fake_anthropic import Served, make_key
from tests.support.vault import fake as fake_vault
from tests.support.vault.real_server import dev_server, server_binary

PASSWORDS = {"POSTGRES_PASSWORD": "root", "OWNER_PASSWORD": "owner", "SERVICE_PASSWORD": "service"}
NAMESPACE = "team-a"
MOUNTS = {"BYOK_VAULT__KV_MOUNT": "keys", "BYOK_VAULT__TRANSIT_MOUNT": "keys-transit"}


@dataclass(frozen=True, kw_only=True)
class Installation:
    """The servers that the commands use, and what `.env` has besides the passwords."""

    postgresql: BareServer
    given: dict[str, str]

    def environment(self, service: str, **given: str) -> dict[str, str]:
        """The variables of a service, without the prefix. PostgreSQL is at another address than in compose.yaml."""
        host = f"127.0.0.1:{self.postgresql.superuser.port}"
        variables = compose_services()[service].environment(PASSWORDS | self.given | given)
        return {
            name.removeprefix("BYOK_"): value.replace("postgres:5432", host)
            for name, value in variables.items()
        }


@asynccontextmanager
async def session_of(address: str, token: str, namespace: str | None = None) -> AsyncIterator[VaultSession]:
    server = VaultServer(address)
    session = VaultSession(server, VaultLogin(method="token", token=token, namespace=namespace))
    yield session
    await session.close()
    server.close()


@pytest.fixture
def postgresql() -> Iterator[BareServer]:
    with bare_server(next(iter(installations().values()))) as server:
        server.run_roles_script(server.superuser, OWNER_PASSWORD="owner", SERVICE_PASSWORD="service")
        yield server


@pytest.fixture
async def vault() -> AsyncIterator[tuple[str, str]]:
    """Address and root token of a server that has the namespace: OpenBao, or else the fake."""
    if Path(server_binary() or "").name != "bao":
        async with fake_vault.serve() as served:
            yield served.address, fake_vault.ROOT
        return
    with dev_server() as server:
        async with session_of(server.address, server.token) as session:
            created = await session.call(
                lambda client: client.write_data(f"sys/namespaces/{NAMESPACE}", data={})
            )
            expect_success(created)
        yield server.address, server.token


async def secret_ids(address: str, token: str) -> dict[str, str]:
    """Create a secret id for each role, as docs/how-to/vault.md says."""
    found = {}
    async with session_of(address, token, NAMESPACE) as session:
        for role in VaultRole:
            path = f"auth/approle/role/byok-{role}/secret-id"
            created = expect_success(
                await session.call(lambda client, path=path: client.write_data(path))  # type: ignore[misc]  # bound now
            )
            found[f"BYOK_VAULT__ROLES__{role.upper()}__SECRET_ID"] = text_field(created, "secret_id")
    return found


class TestSettings:
    @pytest.mark.parametrize("service", ["service", "worker"])
    def test_can_all_be_set_but_those_of_the_file_itself(self, service: str) -> None:
        """Docker gives a container only the variables that the file names."""
        own = {"HOST", "PORT", "DATA_DIR", "METRICS_PORT", "DATABASE__MIGRATION_URL"}

        missing = set(variables()) - compose_services()[service].entry["environment"].keys()

        assert missing == {f"BYOK_{name}" for name in own}


def variables() -> Iterator[str]:
    """The variables of all settings."""
    for name in Settings.model_fields:
        if (group := group_of(Settings, name)) is None:
            yield f"BYOK_{name.upper()}"
        else:
            yield from (f"BYOK_{name.upper()}__{inner.upper()}" for inner in group.model_fields)


class TestVaultSettings:
    @pytest.mark.parametrize("service", ["vault-setup", "service", "worker"])
    def test_can_all_be_set(self, service: str) -> None:
        known = {f"BYOK_VAULT__{name.upper()}" for name in VaultSettings.model_fields} - {"BYOK_VAULT__ROLES"}
        known |= {
            f"BYOK_VAULT__ROLES__{role.upper()}__{name}"
            for role in VaultRole
            for name in ("ROLE_ID", "SECRET_ID")
        }

        assert known <= compose_services()[service].entry["environment"].keys()

    def test_are_not_passed_on_if_they_are_not_set(self) -> None:
        environment = compose_services()["service"].environment(PASSWORDS)

        assert not [name for name in environment if name.startswith("BYOK_VAULT")]


class TestCommands:
    async def test_use_the_namespace_the_mounts_and_a_login_for_each_role(
        self, postgresql: BareServer, vault: tuple[str, str], provider: Served, tmp_path: Path
    ) -> None:
        address, token = vault
        given = {"BYOK_VAULT__ADDRESS": address, "BYOK_VAULT__NAMESPACE": NAMESPACE, **MOUNTS}
        installation = Installation(postgresql=postgresql, given=given)

        migrated = await byok("migrate", cwd=tmp_path, **installation.environment("migrate"))
        assert migrated.code == 0, migrated.stderr
        set_up = await byok(
            "vault-setup",
            cwd=tmp_path,
            **installation.environment("vault-setup", BYOK_VAULT__TOKEN=token),
        )
        assert set_up.code == 0, set_up.stderr
        printed = [line.partition("=") for line in set_up.stdout.splitlines() if "__ROLE_ID=" in line]
        logins = {name: value for name, _, value in printed} | await secret_ids(address, token)

        settings = installation.environment("service", BYOK_VAULT__AUTH_METHOD="approle", **logins)
        assert "VAULT__TOKEN" not in settings
        async with running(**settings | {"PROVIDER__DEFAULT_BASE_URL": provider.base_url}) as service:
            saved = await service.save("org_acme", make_key())

        assert saved.status_code == 201, saved.text
        assert saved.json()["validation"]["status"] == "valid"
