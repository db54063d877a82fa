"""The real SDKs, directly at the provider and through the relay: equal objects, events, exceptions and repetitions.

The service is a process, the provider speaks TLS, and every byte passes real sockets.
"""

import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.network.scripted_servers import AUTHORITY
from tests.support.processes.commands import byok
from tests.support.processes.service import Service, running
from tests.support.provider.fake_anthropic import make_key
from tests.support.relay import provider_scripts
from tests.support.relay.scripted_provider import Exchange, ScriptedProvider, serve_scripted
from tests.support.relay.sdks.installed import Sdk

pytestmark = pytest.mark.slow

ORGANIZATION = "org_acme"
SCENARIOS = list(provider_scripts.scenarios())
# All headers that a provider may receive. The SDKs send more.
ALLOWED = {
    "accept",
    "accept-encoding",
    "anthropic-beta",
    "anthropic-version",
    "content-length",
    "content-type",
    "host",
    "user-agent",
    "x-api-key",
}
UNCHANGED = ("anthropic-version", "anthropic-beta", "user-agent", "accept", "content-type")


@dataclass(frozen=True, kw_only=True)
class Setup:
    """A running service whose organization has a valid key."""

    service: Service
    provider: ScriptedProvider
    token: str
    key: str
    ca_file: Path

    @property
    def relay_url(self) -> str:
        return f"{self.service.url}/relay/anthropic"

    def relayed(self) -> list[Exchange]:
        """What the provider received from the SDKs. A validation, which a 401 causes at any time, sends no script."""
        return [it for it in self.provider.exchanges if "x-stainless-script" in it.headers]

    async def outcomes(self, sdk: Sdk) -> "Outcomes":
        """What the SDK makes of every scenario, directly and through the relay, and of the relay's refusals."""
        before = len(self.relayed())
        scenarios = [{"call": call, "script": script} for call, script, _ in SCENARIOS]
        refused = [{"call": call, "script": "text"} for call in ("create", "raw_stream", "models")]
        direct, relayed, refusals = await sdk.run(
            {
                "runs": [
                    {"base_url": self.provider.base_url, "api_key": self.key, "scenarios": scenarios},
                    {"base_url": self.relay_url, "api_key": self.token, "scenarios": scenarios},
                    {"base_url": self.relay_url, "api_key": "not-a-token", "scenarios": refused},
                ]
            },
            environment={"SSL_CERT_FILE": str(self.ca_file), "NODE_EXTRA_CA_CERTS": str(self.ca_file)},
        )
        received = iter(self.relayed()[before:])
        return Outcomes(
            direct=direct,
            relayed=relayed,
            refusals=refusals,
            sent_directly=[[next(received) for _ in range(count)] for _, _, count in SCENARIOS],
            sent_through=[[next(received) for _ in range(count)] for _, _, count in SCENARIOS],
            sent_after=list(received),
        )


@dataclass(frozen=True, kw_only=True)
class Outcomes:
    """What an SDK made of every scenario, and what the provider received for each."""

    direct: list[Any]
    relayed: list[Any]
    refusals: list[Any]
    sent_directly: list[list[Exchange]]
    sent_through: list[list[Exchange]]
    sent_after: list[Exchange]


@pytest.fixture(scope="module")
async def setup(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Setup]:
    ca_file = tmp_path_factory.mktemp("ca") / "ca.pem"
    AUTHORITY.cert_pem.write_to_path(ca_file)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    AUTHORITY.issue_cert("127.0.0.1").configure_cert(context)
    key = make_key()
    async with (
        serve_scripted(context) as provider,
        running(PROVIDER__DEFAULT_BASE_URL=provider.base_url, PROVIDER__CA_FILE=str(ca_file)) as service,
    ):
        provider_scripts.register(provider)
        saved = (await service.save(ORGANIZATION, key)).json()
        assert saved["validation"]["status"] == "valid"
        mode = {"mode": "byo", "credential_id": saved["id"]}
        await service.request("PUT", f"/v1/organizations/{ORGANIZATION}/usage-mode", json=mode)
        issued = await byok(
            *("token", "--organization", ORGANIZATION, "--scope", "relay:messages"),
            cwd=service.home,
            **service.environment,
        )
        yield Setup(service=service, provider=provider, token=issued.stdout.strip(), key=key, ca_file=ca_file)


@pytest.fixture(scope="module")
async def outcomes(setup: Setup, sdk: Sdk) -> Outcomes:
    """From one process, because its start takes longer than the requests."""
    return await setup.outcomes(sdk)


class TestThroughTheRelay:
    async def test_everything_is_as_without_it(self, setup: Setup, outcomes: Outcomes) -> None:
        for scenario, expected, found in zip(SCENARIOS, outcomes.direct, outcomes.relayed, strict=True):
            assert found == expected, scenario
        for scenario, expected_requests, requests in zip(
            SCENARIOS, outcomes.sent_directly, outcomes.sent_through, strict=True
        ):
            for request, expected_request in zip(requests, expected_requests, strict=True):
                assert (request.target, request.body) == (expected_request.target, expected_request.body), (
                    scenario
                )
                self.check_headers(request, expected_request, setup)

    @staticmethod
    def check_headers(request: Exchange, direct: Exchange, setup: Setup) -> None:
        names = set(request.headers)
        assert {name for name in names if not name.startswith("x-stainless-")} <= ALLOWED
        assert request.headers["x-api-key"] == setup.key
        assert request.headers["accept-encoding"] == "identity"
        assert not any(setup.token in value for value in request.headers.values())
        for name in UNCHANGED:
            assert request.headers.get(name) == direct.headers.get(name), name

    async def test_refusals_of_the_relay_are_errors_of_the_sdk(self, outcomes: Outcomes) -> None:
        for result in outcomes.refusals:
            error = result["error"]
            assert error["class"] == "AuthenticationError"
            assert (error["is_api_error"], error["status"]) == (True, 401)
            assert error["body"]["error"]["details"]["error_code"] == "unauthenticated"
        assert outcomes.sent_after == []
