"""`byok doctor` and the API with the documents and tokens of identity providers, over TLS.

The settings are those of docs/how-to/identity-provider.md.
"""

import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trustme

from tests.support.fault_injection import sampled_cases
from tests.support.network.document_server import serving_documents
from tests.support.network.identity_providers import PROVIDERS, IdentityProvider
from tests.support.processes.commands import byok
from tests.support.processes.service import Service, running

EVENT = {
    "started_at": datetime.now(UTC).isoformat(),
    "model": "claude-sonnet-4-5",
    "outcome": "succeeded",
    "usage": {"input_tokens": 10, "output_tokens": 5},
}


@dataclass(frozen=True, kw_only=True)
class Installation:
    """A service that trusts one identity provider."""

    provider: IdentityProvider
    base: str
    service: Service

    async def status(self, claims: dict[str, object], path: str) -> int:
        headers = {"Authorization": f"Bearer {self.provider.token(self.base, claims)}"}
        return (await self.service.http.get(path, headers=headers)).status_code


@pytest.fixture(scope="module", params=list(sampled_cases(PROVIDERS, stride=4, of="identity providers")))
async def installed(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Installation]:
    provider, authority = PROVIDERS[request.param], trustme.CA()
    ca = tmp_path_factory.mktemp("tls") / "ca.pem"
    authority.cert_pem.write_to_path(ca)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    async with serving_documents(tls=context) as server:
        server.documents.update(provider.documents(server.url))
        settings = {f"AUTH__{name}": value for name, value in provider.settings.items()} | {
            "AUTH__ISSUER": server.url + provider.issuer,
            "AUTH__JWKS_URL": server.url + provider.jwks,
            "AUTH__CA_FILE": str(ca),
        }
        async with running(**settings) as service:
            yield Installation(provider=provider, base=server.url, service=service)


async def test_doctor_finds_nothing_wrong(installed: Installation, tmp_path: Path) -> None:
    checked = await byok("doctor", cwd=tmp_path, **installed.service.environment)

    tokens = [line for line in checked.stdout.splitlines() if " tokens: " in line]
    assert tokens
    assert all(line.startswith("ok ") for line in tokens), tokens
    assert "ok    tokens: BYOK_AUTH__ISSUER is the issuer of the discovery document" in tokens


async def test_an_admin_reads_the_credentials_of_one_organization(installed: Installation) -> None:
    user = dict(installed.provider.user)

    assert await installed.status(user, "/v1/organizations/acme/provider-credentials") == 200
    assert await installed.status(user, "/v1/organizations/other/provider-credentials") == 404
    assert await installed.status(user, "/v1/organizations/acme/audit-events") == 403


async def test_an_internal_service_reports_the_usage_of_every_organization(installed: Installation) -> None:
    token = installed.provider.token(installed.base, installed.provider.service)

    for organization in ("acme", "other"):
        response = await installed.service.http.post(
            f"/v1/organizations/{organization}/usage-events",
            json={"events": [EVENT | {"event_id": f"event-{organization}"}]},
            headers={"Authorization": f"Bearer {token}"},
        )
        assert (response.status_code, response.json()["accepted"]) == (200, 1)


async def test_a_token_for_another_audience_is_refused(installed: Installation) -> None:
    user = dict(installed.provider.user) | {"aud": "another-api"}

    assert await installed.status(user, "/v1/organizations/acme/provider-credentials") == 401
