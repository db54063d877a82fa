"""The example in docs/examples does what it says, as a process beside the service, a Vault and a provider."""

import asyncio
import json
from collections.abc import AsyncIterator
from importlib.util import module_from_spec, spec_from_file_location
from types import ModuleType
from uuid import uuid4

import httpx
import pytest

from tests.canary import Detector
from tests.e2e.leasing import CONSUMER, Leasing, leasing
from tests.fake_anthropic import Served, make_key
from tests.integration.secret_store.server import is_there

VAULTS = ["fake", *(["real"] if is_there() else [])]


@pytest.fixture(scope="module", params=VAULTS)
async def running(request: pytest.FixtureRequest, provider: Served) -> AsyncIterator[Leasing]:
    async with leasing(real=request.param == "real", provider_url=provider.base_url) as found:
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


def of_the_work(provider: Served, key: str) -> list[str | None]:
    """Which header brought the key, of every piece of work that was done with it; checks aside."""
    return [
        entry.credential_header
        for entry in provider.fake.requests_of(key)
        if (entry.method, entry.path) == ("POST", "/v1/messages")
    ]


class TestConsumer:
    async def test_works_on_the_organizations_own_key(
        self, running: Leasing, provider: Served, organization: str
    ) -> None:
        key = make_key()
        path = await running.in_force(organization, key)

        ended = await running.consume(organization, "Why is the sky blue?")

        assert ended.code == 0, ended.stderr
        assert ended.stdout.strip()
        used = json.loads(ended.stderr)
        assert (used["credential_id"], used["key_version"]) == (path.rpartition("/")[2], 1)
        assert of_the_work(provider, key) == ["x-api-key"]

    async def test_sends_it_in_its_style_to_its_workspace(
        self, running: Leasing, provider: Served, organization: str
    ) -> None:
        key = make_key()
        await running.in_force(organization, key, auth_style="bearer", workspace_id="wrkspc_1")

        ended = await running.consume(organization, "Why?")

        assert ended.code == 0, ended.stderr
        assert of_the_work(provider, key) == ["authorization"]
        (work,) = [entry for entry in provider.fake.requests_of(key) if entry.path == "/v1/messages"]
        assert work.shown_headers["anthropic-workspace-id"] == "wrkspc_1"
        assert work.complaints == ()

    async def test_works_on_the_new_key_after_a_rotation(
        self, running: Leasing, provider: Served, organization: str
    ) -> None:
        old, new = make_key(), make_key()
        path = await running.in_force(organization, old)
        rotated = await running.service.request("POST", f"{path}/rotations", json={"api_key": new})
        assert rotated.json()["state"] == "activated"

        ended = await running.consume(organization, "Why?")

        assert json.loads(ended.stderr)["key_version"] == 2
        assert (of_the_work(provider, old), of_the_work(provider, new)) == ([], ["x-api-key"])

    @pytest.mark.parametrize("behaviour", ["valid", "echo", "overloaded"])
    async def test_shows_the_key_nowhere(
        self, running: Leasing, provider: Served, organization: str, behaviour: str
    ) -> None:
        key = make_key()
        await running.in_force(organization, key)
        provider.fake.behave(key, behaviour)

        ended = await running.consume(organization, "Why?")

        assert (ended.code == 0) is (behaviour == "valid")
        assert Detector({"key": key}).search("output", ended.stdout + ended.stderr) == []

    async def test_says_why_there_is_no_key(self, running: Leasing, organization: str) -> None:
        ended = await running.consume(organization, "Why?")

        assert (ended.code, ended.stdout) == (1, "")
        assert ended.stderr.strip() == "LeaseRefused: no lease: mode_is_managed"

    async def test_says_that_the_provider_is_not_there_without_the_request(
        self, running: Leasing, organization: str
    ) -> None:
        await running.in_force(organization, make_key())

        ended = await running.consume(organization, "Why?", VAULT_ADDR="http://127.0.0.1:1")

        assert (ended.code, ended.stdout) == (1, "")
        assert ended.stderr.strip() == "not reached: ConnectError"


class TestOpenLease:
    async def test_refuses_a_token_that_somebody_opened_before(
        self, running: Leasing, organization: str, example: ModuleType
    ) -> None:
        await running.in_force(organization, make_key())
        leased = (await running.lease(organization)).json()
        vault = example.Vault(address=running.vault.address, transit_mount=running.vault.mounts.transit)

        with httpx.Client(trust_env=False) as http:
            opened = await asyncio.to_thread(example.open_lease, http, vault, organization, leased)
            with pytest.raises(example.LeaseCompromised):
                await asyncio.to_thread(example.open_lease, http, vault, organization, leased)

        assert opened.is_good
        assert opened.headers["x-api-key"] not in repr(opened)

    async def test_refuses_a_token_of_another_organization(
        self, running: Leasing, organization: str, example: ModuleType
    ) -> None:
        await running.in_force(organization, make_key())
        leased = (await running.lease(organization)).json()
        vault = example.Vault(address=running.vault.address, transit_mount=running.vault.mounts.transit)

        with httpx.Client(trust_env=False) as http, pytest.raises(example.LeaseCompromised):
            await asyncio.to_thread(example.open_lease, http, vault, f"{organization}x", leased)

    async def test_refuses_a_token_that_was_made_elsewhere(
        self, running: Leasing, organization: str, example: ModuleType
    ) -> None:
        path = f"{running.vault.mounts.transit}/decrypt/org.{organization}.key"
        await running.in_force(organization, make_key())
        leased = (await running.lease(organization)).json()
        forged = await running.vault.root_session.call(
            lambda vault: vault.write_data(
                f"{running.vault.mounts.transit}/encrypt/ping", data={"plaintext": "c2s="}, wrap_ttl="60s"
            )
        )
        vault = example.Vault(address=running.vault.address, transit_mount=running.vault.mounts.transit)
        swapped = leased | {"wrapping_token": forged.wrap_info["token"], "creation_path": path}

        with httpx.Client(trust_env=False) as http, pytest.raises(example.LeaseCompromised):
            await asyncio.to_thread(example.open_lease, http, vault, organization, swapped)
