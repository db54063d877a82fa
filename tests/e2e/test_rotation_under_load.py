"""Keys are rotated while clients lease, work and validate without a pause: nobody is refused, no dead key is used.

The key before is revoked at the provider and destroyed as soon as `safe_to_revoke` says so, which puts that
promise to the test as well. BYOK_TEST_LOAD=full runs 50 clients and 20 rotations.
"""

import asyncio
import os
from base64 import b64decode
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from tests.e2e.leasing import leasing
from tests.e2e.service import Service, running, until
from tests.fake_anthropic import Served, make_key
from tests.integration.secret_store.server import is_there

IS_FULL = os.environ.get("BYOK_TEST_LOAD") == "full"
CLIENTS, ROTATIONS = (50, 20) if IS_FULL else (8, 4)
ORGANIZATION = "org_load"
# A consumer begins no work so shortly before its lease ends.
MARGIN = timedelta(seconds=0.3)
PATIENCE_SECONDS = 30.0
UNLIMITED = {"RATE_LIMITS__CREDENTIAL_WRITES": "1000000"}


@dataclass(kw_only=True)
class Load:
    """Clients that go on until told to stop, and what went wrong."""

    http: httpx.AsyncClient
    service: Service
    provider: Served
    tokens: dict[str, str]
    path: str
    vault_address: str | None
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    failures: list[str] = field(default_factory=list)
    done: dict[str, int] = field(default_factory=dict)

    async def lease_and_work(self) -> None:
        """As docs/examples/lease_consumer.py does."""
        leased = await self._post("service", f"/v1/organizations/{ORGANIZATION}/credential-leases", 201)
        if leased is None:
            return
        expires_at = datetime.fromisoformat(leased["expires_at"])
        opened = await self.http.post(
            f"{self.vault_address}/v1/sys/wrapping/unwrap",
            headers={"X-Vault-Token": leased["wrapping_token"]},
        )
        if datetime.now(UTC) > expires_at - MARGIN:
            return  # too slow: the key is not used
        if opened.status_code != 200:
            self.failures.append(f"unwrap: {opened.status_code}")
            return
        key = b64decode(opened.json()["data"]["plaintext"]).decode()
        worked = await self.http.post(
            leased["messages_url"],
            headers={"x-api-key": key, "anthropic-version": "2023-06-01"},
            json={"model": "claude-haiku-5-5", "max_tokens": 1, "messages": []},
        )
        self._count("worked" if worked.status_code == 200 else f"work: {worked.status_code}")

    async def validate(self) -> None:
        found = await self._post("admin", f"{self.path}/validations", 201)
        if found is not None:
            is_valid = found["status"] == "valid"
            self._count("validated" if is_valid else f"validation: {found['status']} {found['reason']}")

    async def repeat(self, work: Callable[[], Awaitable[None]]) -> None:
        while not self.stop.is_set():
            try:
                await work()
            except httpx.HTTPError as error:
                self.failures.append(f"{type(error).__name__} of {error.request.url.path}")

    async def rotate(self, old: str) -> str:
        """Bring a new key, and end the old one as soon as that is said to be safe."""
        new = make_key()
        rotation = await self._post("admin", f"{self.path}/rotations", 201, api_key=new)
        assert rotation is not None, self.failures
        assert rotation["state"] == "activated"
        await until(self._is_safe, "the key before is safe to revoke", seconds=PATIENCE_SECONDS)
        self.provider.fake.behave(old, "revoked")
        await self._post("admin", f"{self.path}/versions/{rotation['key_version'] - 1}/destroy", 200)
        return new

    async def _is_safe(self) -> bool:
        headers = {"Authorization": f"Bearer {self.tokens['admin']}"}
        found = await self.http.get(f"{self.service.url}{self.path}", headers=headers)
        return bool(found.json()["previous"]["safe_to_revoke"])

    async def _post(self, role: str, path: str, status: int, **body: str) -> dict[str, Any] | None:
        """The answer, if it is the expected one."""
        fields: dict[str, Any] = {"ttl_seconds": 1} if path.endswith("leases") else body
        response = await self.http.post(
            f"{self.service.url}{path}",
            headers={"Authorization": f"Bearer {self.tokens[role]}"},
            json=fields or None,
        )
        if response.status_code != status:
            self.failures.append(f"{path.rpartition('/')[2]}: {response.status_code} {response.text}")
            return None
        found: dict[str, Any] = response.json()
        return found

    def _count(self, outcome: str) -> None:
        if outcome in {"worked", "validated"}:
            self.done[outcome] = self.done.get(outcome, 0) + 1
        else:
            self.failures.append(outcome)


@asynccontextmanager
async def load_on(
    service: Service, provider: Served, key: str, *, vault_address: str | None
) -> AsyncIterator[Load]:
    """A key in force, and clients at work: half of them lease where there is a Vault, the others validate."""
    saved = await service.save(ORGANIZATION, key)
    assert saved.status_code == 201, saved.text
    mode = {"mode": "byo", "credential_id": saved.json()["id"]}
    switched = await service.request("PUT", f"/v1/organizations/{ORGANIZATION}/usage-mode", json=mode)
    assert switched.status_code == 200, switched.text
    # Shorter than any of the servers keeps one, lest a request goes out while its connection is being closed.
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=3 * CLIENTS, keepalive_expiry=2)
    async with httpx.AsyncClient(timeout=PATIENCE_SECONDS, limits=limits, trust_env=False) as http:
        load = Load(
            http=http,
            service=service,
            provider=provider,
            tokens={"service": await service.token("service"), "admin": await service.token()},
            path=saved.headers["Location"],
            vault_address=vault_address,
        )
        works = [load.validate, load.validate if vault_address is None else load.lease_and_work]
        clients = [asyncio.create_task(load.repeat(works[number % 2])) for number in range(CLIENTS)]
        try:
            yield load
        finally:
            load.stop.set()
            await asyncio.gather(*clients)


@pytest.mark.slow
class TestRotationUnderLoad:
    @pytest.mark.parametrize("vault", ["real" if is_there() else "fake"])
    async def test_over_vault_refuses_nobody(self, provider: Served, vault: str) -> None:
        key = make_key()
        async with (
            leasing(real=vault == "real", provider_url=provider.base_url, **UNLIMITED) as found,
            load_on(found.service, provider, key, vault_address=found.vault.address) as load,
        ):
            for _ in range(ROTATIONS):
                key = await load.rotate(key)

        assert load.failures == []
        assert min(load.done["worked"], load.done["validated"]) >= ROTATIONS
        print(f"{vault}: {CLIENTS} clients, {ROTATIONS} rotations, {load.done}")

    async def test_over_the_embedded_store_refuses_nobody(self, provider: Served) -> None:
        key = make_key()
        async with (
            running(PROVIDER__DEFAULT_BASE_URL=provider.base_url, **UNLIMITED) as service,
            load_on(service, provider, key, vault_address=None) as load,
        ):
            for _ in range(ROTATIONS):
                key = await load.rotate(key)

        assert load.failures == []
        assert load.done["validated"] >= ROTATIONS
        print(f"embedded: {CLIENTS} clients, {ROTATIONS} rotations, {load.done}")
