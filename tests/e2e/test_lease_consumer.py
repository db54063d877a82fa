"""The example in docs/examples works, as a separate process with the service, a Vault and a provider."""

import asyncio
import json
from collections.abc import AsyncIterator
from importlib.util import module_from_spec, spec_from_file_location
from types import ModuleType
from uuid import uuid4

import httpx
import pytest

from tests.support.canary import Detector
from tests.support.processes.lease_consumer import CONSUMER, LeasingService, leasing_service
from tests.support.provider.fake_anthropic import Served, make_key
from tests.support.vault.real_server import is_real_vault_available

VAULTS = ["fake", *(["real"] if is_real_vault_available() else [])]


@pytest.fixture(scope="module", params=VAULTS)
async def leasing(request: pytest.FixtureRequest, provider: Served) -> AsyncIterator[LeasingService]:
    async with leasing_service(real=request.param == "real", provider_url=provider.base_url) as found:
        yield found


@pytest.fixture
def organization() -> str:
    return f"org_{uuid4().hex[:16]}"


@pytest.fixture
def example() -> ModuleType:
    spec = spec_from_file_location("lease_consumer", CONSUMER)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def key_headers(provider: Served, key: str) -> list[str | None]:
    """The header that carried the key, for each request of work. Validation requests are not counted."""
    return [
        entry.credential_header
        for entry in provider.fake.requests_of(key)
        if (entry.method, entry.path) == ("POST", "/v1/messages")
    ]


class TestConsumer:
    async def test_uses_the_organizations_key(
        self, leasing: LeasingService, provider: Served, organization: str
    ) -> None:
        key = make_key()
        path = await leasing.save_active_credential(organization, key)

        result = await leasing.consume(organization, "Why is the sky blue?")

        assert result.code == 0, result.stderr
        assert result.stdout.strip()
        used = json.loads(result.stderr)
        assert (used["credential_id"], used["key_version"]) == (path.rpartition("/")[2], 1)
        assert key_headers(provider, key) == ["x-api-key"]

    async def test_sends_the_key_with_its_auth_style_and_workspace(
        self, leasing: LeasingService, provider: Served, organization: str
    ) -> None:
        key = make_key()
        await leasing.save_active_credential(organization, key, auth_style="bearer", workspace_id="wrkspc_1")

        result = await leasing.consume(organization, "Why?")

        assert result.code == 0, result.stderr
        assert key_headers(provider, key) == ["authorization"]
        (work,) = [entry for entry in provider.fake.requests_of(key) if entry.path == "/v1/messages"]
        assert work.shown_headers["anthropic-workspace-id"] == "wrkspc_1"
        assert work.complaints == ()

    async def test_uses_the_new_key_after_a_rotation(
        self, leasing: LeasingService, provider: Served, organization: str
    ) -> None:
        old, new = make_key(), make_key()
        path = await leasing.save_active_credential(organization, old)
        rotated = await leasing.service.request("POST", f"{path}/rotations", json={"api_key": new})
        assert rotated.json()["state"] == "activated"

        result = await leasing.consume(organization, "Why?")

        assert json.loads(result.stderr)["key_version"] == 2
        assert (key_headers(provider, old), key_headers(provider, new)) == ([], ["x-api-key"])

    @pytest.mark.parametrize("behaviour", ["valid", "echo", "overloaded"])
    async def test_never_prints_the_key(
        self, leasing: LeasingService, provider: Served, organization: str, behaviour: str
    ) -> None:
        key = make_key()
        await leasing.save_active_credential(organization, key)
        provider.fake.behave(key, behaviour)

        result = await leasing.consume(organization, "Why?")

        assert (result.code == 0) is (behaviour == "valid")
        assert Detector({"key": key}).search("output", result.stdout + result.stderr) == []

    async def test_reports_why_there_is_no_lease(self, leasing: LeasingService, organization: str) -> None:
        result = await leasing.consume(organization, "Why?")

        assert (result.code, result.stdout) == (1, "")
        assert result.stderr.strip() == "LeaseRefused: no lease: mode_is_managed"

    async def test_reports_a_failed_connection_without_the_request(
        self, leasing: LeasingService, organization: str
    ) -> None:
        await leasing.save_active_credential(organization, make_key())

        result = await leasing.consume(organization, "Why?", VAULT_ADDR="http://127.0.0.1:1")

        assert (result.code, result.stdout) == (1, "")
        assert result.stderr.strip() == "connection failed: ConnectError"


class TestOpenLease:
    async def test_refuses_a_token_that_was_unwrapped_before(
        self, leasing: LeasingService, organization: str, example: ModuleType
    ) -> None:
        await leasing.save_active_credential(organization, make_key())
        leased = (await leasing.lease(organization)).json()
        vault = example.Vault(address=leasing.vault.address, transit_mount=leasing.vault.mounts.transit)

        with httpx.Client(trust_env=False) as http:
            opened = await asyncio.to_thread(example.open_lease, http, vault, organization, leased)
            with pytest.raises(example.LeaseCompromised):
                await asyncio.to_thread(example.open_lease, http, vault, organization, leased)

        assert opened.is_valid
        assert opened.headers["x-api-key"] not in repr(opened)

    async def test_refuses_a_token_of_another_organization(
        self, leasing: LeasingService, organization: str, example: ModuleType
    ) -> None:
        await leasing.save_active_credential(organization, make_key())
        leased = (await leasing.lease(organization)).json()
        vault = example.Vault(address=leasing.vault.address, transit_mount=leasing.vault.mounts.transit)

        with httpx.Client(trust_env=False) as http, pytest.raises(example.LeaseCompromised):
            await asyncio.to_thread(example.open_lease, http, vault, f"{organization}x", leased)

    async def test_refuses_a_token_that_was_created_elsewhere(
        self, leasing: LeasingService, organization: str, example: ModuleType
    ) -> None:
        path = f"{leasing.vault.mounts.transit}/decrypt/org.{organization}.key"
        await leasing.save_active_credential(organization, make_key())
        leased = (await leasing.lease(organization)).json()
        forged = await leasing.vault.root_session.call(
            lambda vault: vault.write_data(
                f"{leasing.vault.mounts.transit}/encrypt/ping", data={"plaintext": "c2s="}, wrap_ttl="60s"
            )
        )
        vault = example.Vault(address=leasing.vault.address, transit_mount=leasing.vault.mounts.transit)
        swapped = leased | {"wrapping_token": forged.wrap_info["token"], "creation_path": path}

        with httpx.Client(trust_env=False) as http, pytest.raises(example.LeaseCompromised):
            await asyncio.to_thread(example.open_lease, http, vault, organization, swapped)
