"""A PostgreSQL with separate logins for the owner and the service: the setup that production requires."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import pytest
import trustme

from app.auth.principal import Caller
from app.composition.bootstrap import open_services
from app.composition.database_access import database_access, prepare_database
from app.core.clock import new_id
from app.core.keys.api_key import ApiKey
from app.credentials.service import CredentialService, NewCredential
from app.database.url import parse_database_url
from app.settings.environment import SettingsRefused, load_settings
from app.settings.settings import Settings
from tests.support.database.own_database import (
    PASSWORD,
    DatabaseRoles,
    create_database,
    drop_database,
    run_as_superuser,
)
from tests.support.processes.commands import byok
from tests.support.processes.service import running, stopped_service
from tests.support.provider.fake_anthropic import Served, make_key, serve


@dataclass(frozen=True, kw_only=True)
class Installation:
    """A database that `byok migrate` has migrated, and the data directory of its processes."""

    roles: DatabaseRoles
    data_dir: Path  # holds the keyset, which all processes over one database share

    @property
    def settings(self) -> dict[str, str]:
        return self.roles.settings | {"DATA_DIR": str(self.data_dir)}


@pytest.fixture(scope="module")
async def logins(
    database_server: DatabaseRoles, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Installation]:
    roles = await create_database(database_server, f"byok_logins_{uuid4().hex[:12]}")
    logins = Installation(roles=roles, data_dir=tmp_path_factory.mktemp("data"))
    migrated = await byok("migrate", cwd=logins.data_dir, **logins.settings)
    assert migrated.code == 0, migrated.stderr
    assert migrated.stdout.startswith("The schema is at ")
    yield logins
    await drop_database(roles)


@pytest.fixture(scope="module")
async def https_provider(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Served, Path]]:
    """A provider over TLS, and the file with the CA certificate to trust."""
    directory = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(directory / "ca.pem")
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(directory / "server.pem")
    async with serve(certificate=directory / "server.pem") as served:
        yield served, directory / "ca.pem"


@pytest.fixture
def production(logins: Installation, https_provider: tuple[Served, Path]) -> Settings:
    served, ca_file = https_provider
    return load_settings(
        _env_file=None,
        environment="production",
        data_dir=logins.data_dir,
        database={
            "url": logins.settings["DATABASE__URL"],
            "migration_url": logins.settings["DATABASE__MIGRATION_URL"],
        },
        auth={"issuer": "https://id.example.com", "jwks_url": "https://127.0.0.1:1/jwks"},
        secret_store={"allow_embedded": True},
        provider={"default_base_url": served.base_url, "ca_file": ca_file},
    )


async def prepare(settings: Settings) -> None:
    with database_access(settings) as access:
        await prepare_database(settings, access)


class TestDevelopment:
    async def test_saves_validates_and_lists_with_a_member_of_the_role(
        self, logins: Installation, provider: Served
    ) -> None:
        organization = f"org_{uuid4().hex[:16]}"
        settings = logins.settings | {"PROVIDER__DEFAULT_BASE_URL": provider.base_url}

        async with running(**settings) as service:
            saved = await service.save(organization, make_key())
            listed = await service.request("GET", f"/v1/organizations/{organization}/provider-credentials")
            code = await service.stop()

        assert (saved.status_code, saved.json()["validation"]["status"]) == (201, "valid")
        assert [credential["id"] for credential in listed.json()["data"]] == [saved.json()["id"]]
        assert code in {0, 143}

    async def test_rejects_a_data_directory_with_another_keyset(
        self, logins: Installation, tmp_path: Path
    ) -> None:
        async with stopped_service(**logins.settings | {"DATA_DIR": str(tmp_path)}) as service:
            service.launch()
            code, stderr = await service.wait_for_exit(), service.stderr

        assert code == 2
        assert stderr.startswith("Error: BYOK_DATA_DIR: ")

    async def test_rejects_an_owner_as_the_only_login(self, logins: Installation, tmp_path: Path) -> None:
        only = {"DATABASE__URL": logins.settings["DATABASE__MIGRATION_URL"], "DATA_DIR": str(tmp_path)}

        served = await byok("serve", cwd=tmp_path, **only)
        checked = await byok("doctor", cwd=tmp_path, **only)

        assert served.code == 2
        assert "BYOK_DATABASE__URL: the login is not a member of byok_service; set" in served.stderr
        assert checked.code == 2
        assert "fail  service role: the login is not a member of byok_service" in checked.stdout


class TestProduction:
    async def test_saves_validates_and_lists(self, production: Settings) -> None:
        """Calls the services without HTTP, because tokens would need an issuer with a publicly trusted certificate."""
        caller = Caller(subject="ada", organization_id=f"org_{uuid4().hex[:16]}", request_id="req_1")
        new = NewCredential(
            label="Production",
            key=ApiKey.parse(make_key()),
            base_url=None,
            auth_style=None,
            workspace_id=None,
            probe_model=None,
        )

        await prepare(production)
        with database_access(production) as access:
            async with open_services(production, access) as services:
                saved = await services[CredentialService].register(caller, new, credential_id=new_id())
                listed = await services[CredentialService].page(
                    caller.organization_id, state=None, at_most=10, before=None
                )

        assert saved.active_version.result.status == "valid"
        assert [record.id for record in listed] == [saved.id]

    async def test_starts_and_rejects_every_token_while_the_issuer_is_unreachable(
        self, logins: Installation, https_provider: tuple[Served, Path]
    ) -> None:
        served, ca_file = https_provider
        async with running(
            **logins.settings,
            ENVIRONMENT="production",
            AUTH__ISSUER="https://id.example.com",
            AUTH__JWKS_URL="https://127.0.0.1:1/jwks",
            SECRET_STORE__ALLOW_EMBEDDED="true",
            PROVIDER__DEFAULT_BASE_URL=served.base_url,
            PROVIDER__CA_FILE=str(ca_file),
        ) as service:
            response = await service.http.get(
                "/v1/organizations/org_acme/provider-credentials",
                headers={"Authorization": "Bearer eyJhbGciOiJFUzI1NiJ9.e30.c2ln"},
            )
            stdout = service.stdout

        assert (response.status_code, response.json()["code"]) == (503, "identity_provider_unavailable")
        assert "TOKEN=" not in stdout

    @pytest.mark.parametrize(
        ("grant", "privilege"),
        [
            ("ALTER ROLE {login} SUPERUSER", "is superuser"),
            ("ALTER ROLE {login} BYPASSRLS", "has BYPASSRLS"),
            ("GRANT {owner} TO {login}", "owns the tables"),
        ],
    )
    async def test_rejects_a_login_that_can_bypass_row_level_security(
        self, production: Settings, logins: Installation, grant: str, privilege: str
    ) -> None:
        login = f"byok_privileged_{uuid4().hex[:12]}"
        privileged = logins.roles.service.set(username=login)
        await run_as_superuser(
            logins.roles,
            f"CREATE ROLE {login} LOGIN PASSWORD '{PASSWORD}' IN ROLE byok_service",
            grant.format(login=login, owner=logins.roles.owner.username),
        )
        database = production.database.model_copy(
            update={
                "url": parse_database_url(
                    privileged.set(drivername="postgresql").render_as_string(hide_password=False)
                )
            }
        )

        with pytest.raises(SettingsRefused) as refused:
            await prepare(production.model_copy(update={"database": database}))

        await run_as_superuser(logins.roles, f"DROP ROLE {login}")
        assert str(refused.value).startswith("BYOK_DATABASE__URL: ")
        assert privilege in str(refused.value)

    async def test_rejects_a_schema_that_was_not_migrated(
        self, production: Settings, database_server: DatabaseRoles
    ) -> None:
        empty = await create_database(database_server, f"byok_empty_{uuid4().hex[:12]}")
        database = production.database.model_copy(
            update={"url": parse_database_url(empty.settings["DATABASE__URL"])}
        )

        with pytest.raises(SettingsRefused, match="run `byok migrate`"):
            await prepare(production.model_copy(update={"database": database}))

        await drop_database(empty)
