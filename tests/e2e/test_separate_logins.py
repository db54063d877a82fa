"""A PostgreSQL with an owner and a mere service login: what production asks for, and what it refuses."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import pytest
import sqlalchemy as sa
import trustme
from sqlalchemy.ext.asyncio import create_async_engine

from app.auth.principal import Caller
from app.composition.bootstrap import database_access, open_services, prepare_database
from app.core.api_key import ApiKey
from app.core.clock import new_id
from app.credentials.service import CredentialService, NewCredential
from app.database import migrations
from app.settings.environment import Settings, SettingsRefused, load_settings
from tests.e2e.commands import byok
from tests.e2e.service import installed, running
from tests.fake_anthropic import Served, make_key, serve

PASSWORD = "not-a-secret"


@dataclass(frozen=True, kw_only=True)
class Logins:
    """One database and those who may log in."""

    owner: sa.URL
    service: sa.URL
    data_dir: Path  # holds the keyset, which all processes over one database share

    @property
    def settings(self) -> dict[str, str]:
        return {
            "DATA_DIR": str(self.data_dir),
            "DATABASE__URL": text(self.service),
            "DATABASE__MIGRATION_URL": text(self.owner),
        }


def text(url: sa.URL) -> str:
    return url.set(drivername="postgresql").render_as_string(hide_password=False)


async def run(url: sa.URL, *statements: str) -> None:
    engine = create_async_engine(url, isolation_level="AUTOCOMMIT")
    async with engine.connect() as connection:
        for statement in statements:
            await connection.execute(sa.text(statement))
    await engine.dispose()


@pytest.fixture(scope="module")
async def logins(server_url: sa.URL, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Logins]:
    """A migrated database; `byok migrate` has brought it up to date."""
    name = uuid4().hex[:12]
    owner = server_url.set(database=f"byok_logins_{name}")
    logins = Logins(
        owner=owner,
        service=owner.set(username=f"byok_login_{name}", password=PASSWORD),
        data_dir=tmp_path_factory.mktemp("data"),
    )
    await migrations.create_database(owner)
    await run(owner, f"CREATE ROLE {logins.service.username} LOGIN PASSWORD '{PASSWORD}'")
    migrated = await byok("migrate", cwd=logins.data_dir, **logins.settings)
    assert migrated.code == 0, migrated.stderr
    assert migrated.stdout.startswith("The schema is at ")
    await run(owner, f"GRANT byok_service TO {logins.service.username}")
    yield logins
    await run(
        server_url.set(database="postgres"),
        f"DROP DATABASE {owner.database} WITH (FORCE)",
        f"DROP ROLE {logins.service.username}",
    )


@pytest.fixture(scope="module")
async def https_provider(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Served, Path]]:
    """A provider over TLS, and the certificates to trust for it."""
    directory = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(directory / "ca.pem")
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(directory / "server.pem")
    async with serve(certificate=directory / "server.pem") as served:
        yield served, directory / "ca.pem"


@pytest.fixture
def production(logins: Logins, https_provider: tuple[Served, Path]) -> Settings:
    served, ca_file = https_provider
    return load_settings(
        _env_file=None,
        environment="production",
        data_dir=logins.data_dir,
        database={"url": text(logins.service), "migration_url": text(logins.owner)},
        auth={"issuer": "https://id.example.com", "jwks_url": "https://127.0.0.1:1/jwks"},
        secret_store={"allow_embedded": True},
        provider={"default_base_url": served.base_url, "ca_file": ca_file},
    )


async def prepare(settings: Settings) -> None:
    with database_access(settings) as access:
        await prepare_database(settings, access)


class TestDevelopment:
    async def test_saves_checks_and_lists_as_a_mere_member_of_the_role(
        self, logins: Logins, provider: Served
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

    async def test_refuses_a_data_directory_with_another_keyset(self, logins: Logins, tmp_path: Path) -> None:
        async with installed(**logins.settings | {"DATA_DIR": str(tmp_path)}) as service:
            service.launch()
            code, said = await service.ended(), service.stderr

        assert code == 2
        assert said.startswith("Error: BYOK_DATA_DIR: ")


class TestProduction:
    async def test_saves_checks_and_lists(self, production: Settings) -> None:
        """Below HTTP: tokens come from an issuer with a certificate of a public authority."""
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

        assert saved.current.verdict.status == "valid"
        assert [record.id for record in listed] == [saved.id]

    async def test_starts_is_ready_and_lets_nobody_in_while_the_issuer_is_away(
        self, logins: Logins, https_provider: tuple[Served, Path]
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
            answered = await service.http.get(
                "/v1/organizations/org_acme/provider-credentials",
                headers={"Authorization": "Bearer eyJhbGciOiJFUzI1NiJ9.e30.c2ln"},
            )
            greeting = service.stdout

        assert (answered.status_code, answered.json()["code"]) == (503, "identity_provider_unavailable")
        assert "TOKEN=" not in greeting

    @pytest.mark.parametrize(
        ("power", "words"),
        [
            ("ALTER ROLE {login} SUPERUSER", "is superuser"),
            ("ALTER ROLE {login} BYPASSRLS", "has BYPASSRLS"),
            ("GRANT {owner} TO {login}", "owns the tables"),
        ],
    )
    async def test_refuses_a_login_that_gets_around_row_level_security(
        self, production: Settings, logins: Logins, power: str, words: str
    ) -> None:
        login = f"byok_mighty_{uuid4().hex[:12]}"
        mighty = logins.service.set(username=login)
        await run(
            logins.owner,
            f"CREATE ROLE {login} LOGIN PASSWORD '{PASSWORD}' IN ROLE byok_service",
            power.format(login=login, owner=logins.owner.username),
        )
        database = production.database.model_copy(update={"url": mighty})

        with pytest.raises(SettingsRefused) as refused:
            await prepare(production.model_copy(update={"database": database}))

        await run(logins.owner, f"DROP ROLE {login}")
        assert str(refused.value).startswith("BYOK_DATABASE__URL: ")
        assert words in str(refused.value)

    async def test_refuses_a_schema_that_was_not_migrated(
        self, production: Settings, logins: Logins, server_url: sa.URL
    ) -> None:
        empty = logins.service.set(database=f"byok_empty_{uuid4().hex[:12]}")
        await migrations.create_database(logins.owner.set(database=empty.database))
        database = production.database.model_copy(update={"url": empty})

        with pytest.raises(SettingsRefused, match="run `byok migrate` first"):
            await prepare(production.model_copy(update={"database": database}))

        await run(server_url.set(database="postgres"), f"DROP DATABASE {empty.database} WITH (FORCE)")
