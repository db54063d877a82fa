"""Production, from a server that an operator has just installed: docs/how-to/deploy.md, step by step.

Nothing here runs as a superuser except `roles.sql`. Issuer and provider are on loopback and use TLS.
"""

import json
import re
import ssl
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import jwt
import pytest
import trustme
from cryptography.hazmat.primitives.asymmetric import ec

from tests.support.database.bare_servers import BareServer, bare_server, installations
from tests.support.network import fake_issuer
from tests.support.network.fake_issuer import FakeIssuer, jwk
from tests.support.processes.commands import byok
from tests.support.processes.service import Service, running
from tests.support.provider.fake_anthropic import Served, make_key, serve

ORGANIZATION = "org_acme"


@pytest.fixture(scope="module")
def bare() -> Iterator[BareServer]:
    """Debian's PostgreSQL or, where it is not installed, the oldest one that is."""
    with bare_server(next(iter(installations().values()))) as server:
        server.run_roles_script(server.superuser, OWNER_PASSWORD="owner", SERVICE_PASSWORD="service")
        yield server


@dataclass(frozen=True, kw_only=True)
class Certificates:
    """A private CA, and a certificate of it for loopback with its key."""

    ca: Path
    server: Path


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    directory = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    found = Certificates(ca=directory / "ca.pem", server=directory / "server.pem")
    authority.cert_pem.write_to_path(found.ca)
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(found.server)
    return found


@pytest.fixture(scope="module")
async def provider_over_tls(certificates: Certificates) -> AsyncIterator[Served]:
    async with serve(certificate=certificates.server) as served:
        yield served


@dataclass(frozen=True, kw_only=True)
class Issuer:
    """An identity provider, and the key that it signs with."""

    server: FakeIssuer
    key: ec.EllipticCurvePrivateKey

    @property
    def name(self) -> str:
        return self.server.url.removesuffix("/jwks")

    def token(self, *scopes: str) -> str:
        now = int(time.time())
        claims = {
            "iss": self.name,
            "aud": "byok",
            "sub": "ada@example.com",
            "org": ORGANIZATION,
            "scope": " ".join(scopes),
            "iat": now,
            "exp": now + 600,
        }
        return jwt.encode(claims, self.key, algorithm="ES256", headers={"kid": "1"})


@pytest.fixture(scope="module")
async def issuer(certificates: Certificates) -> AsyncIterator[Issuer]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.server)
    key = ec.generate_private_key(ec.SECP256R1())
    async with fake_issuer.running(tls=context) as server:
        found = Issuer(server=server, key=key)
        server.publish(jwk(key.public_key(), "1", alg="ES256", use="sig"))
        server.publish_discovery_document(found.name)
        yield found


@pytest.fixture(scope="module")
def settings(
    bare: BareServer,
    issuer: Issuer,
    certificates: Certificates,
    provider_over_tls: Served,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, str]:
    """The settings of the service. It does not have the owner's login."""
    url = bare.login("byok_app", "service").set(drivername="postgresql")
    return {
        "ENVIRONMENT": "production",
        "DATABASE__URL": url.render_as_string(hide_password=False),
        "DATA_DIR": str(tmp_path_factory.mktemp("data")),
        "AUTH__ISSUER": issuer.name,
        "AUTH__JWKS_URL": issuer.server.url,
        "AUTH__CA_FILE": str(certificates.ca),
        "SECRET_STORE__ALLOW_EMBEDDED": "true",
        "PROVIDER__DEFAULT_BASE_URL": provider_over_tls.base_url,
        "PROVIDER__CA_FILE": str(certificates.ca),
    }


@pytest.fixture(scope="module")
def owner_url(bare: BareServer) -> str:
    url = bare.login("byok_owner", "owner").set(drivername="postgresql")
    return url.render_as_string(hide_password=False)


@pytest.fixture(scope="module")
async def service(
    settings: dict[str, str], owner_url: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Service]:
    """A service that was migrated, checked and started as documented."""
    home = tmp_path_factory.mktemp("home")
    migrated = await byok("migrate", cwd=home, **settings, DATABASE__MIGRATION_URL=owner_url)
    assert migrated.code == 0, migrated.stderr
    checked = await byok("doctor", cwd=home, **settings)
    assert checked.code == 0, checked.stdout
    findings = checked.stdout.splitlines()
    assert [line for line in findings if line.startswith(("warn", "fail"))] == []
    assert "ok    row-level security: the service's login cannot bypass it" in findings

    async with running(**settings) as service:
        yield service


async def test_saves_and_validates_a_key(service: Service, issuer: Issuer, provider_over_tls: Served) -> None:
    key = make_key()
    headers = {"Authorization": f"Bearer {issuer.token('credentials:read', 'credentials:write')}"}
    path = f"/v1/organizations/{ORGANIZATION}/provider-credentials"

    saved = await service.http.post(path, json={"label": "Production", "api_key": key}, headers=headers)
    listed = await service.http.get(path, headers=headers)

    assert saved.status_code == 201, saved.text
    assert (saved.json()["validation"]["status"], saved.json()["created_by"]) == ("valid", "ada@example.com")
    assert [credential["id"] for credential in listed.json()["data"]] == [saved.json()["id"]]
    assert key not in json.dumps(listed.json())
    assert len(provider_over_tls.fake.requests_of(key)) == 1


async def test_rejects_a_token_of_another_key(service: Service, issuer: Issuer) -> None:
    forged = Issuer(server=issuer.server, key=ec.generate_private_key(ec.SECP256R1()))

    response = await service.http.get(
        f"/v1/organizations/{ORGANIZATION}/provider-credentials",
        headers={"Authorization": f"Bearer {forged.token('credentials:read')}"},
    )

    assert (response.status_code, response.json()["code"]) == (401, "unauthenticated")


async def test_a_migration_with_the_service_login_names_the_missing_privilege(
    service: Service, settings: dict[str, str], tmp_path: Path
) -> None:
    """The schema is at the newest revision, so the downgrade is the first statement that the login may not run."""
    failed = await byok("migrate", "--to", "base", cwd=tmp_path, **settings)

    assert failed.code == 1
    line = failed.stderr.splitlines()[-1]
    assert line.startswith("Error: the migration ")
    # The newest migration decides which.
    assert re.search(r"failed with SQLSTATE 42501: (?:permission denied for|must be owner of) ", line)
    assert "Migrate as byok_owner: BYOK_DATABASE__MIGRATION_URL." in line
    assert (await service.http.get("/readyz")).status_code == 200
