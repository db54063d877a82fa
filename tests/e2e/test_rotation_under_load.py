"""Rotates keys while clients continuously lease, use and validate them. No request fails, and no revoked key is used.

The previous key is revoked at the provider and destroyed as soon as `safe_to_revoke` is true, so the test verifies
`safe_to_revoke` too. BYOK_TEST_LOAD=full runs 50 clients and 20 rotations.
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

from tests.support.processes.lease_consumer import leasing_service
from tests.support.processes.service import Service, running, until
from tests.support.provider.fake_anthropic import Served, make_key
from tests.support.vault.real_server import is_real_vault_available

IS_FULL = os.environ.get("BYOK_TEST_LOAD") == "full"
CLIENTS, ROTATIONS = (50, 20) if IS_FULL else (8, 4)
ORGANIZATION = "org_load"
# A consumer does not use a key if its lease expires in less than this time.
MARGIN = timedelta(seconds=0.3)
TIMEOUT_SECONDS = 30.0
UNLIMITED = {f"RATE_LIMITS__{kind}": "1000000" for kind in ("CREDENTIAL_WRITES", "CHANGES", "WORK")}


@dataclass(kw_only=True)
class LoadTest:
    """Clients that run until `stop` is set, and their failures."""

    http: httpx.AsyncClient
    service: Service
    provider: Served
    tokens: dict[str, str]
    path: str
    vault_address: str | None
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    failures: list[str] = field(default_factory=list)
    done: dict[str, int] = field(default_factory=dict)

    async def lease_and_use(self) -> None:
        """Lease the active key and use it, like docs/examples/lease_consumer.py."""
        leased = await self._post("service", f"/v1/organizations/{ORGANIZATION}/credential-leases", 201)
        if leased is None:
            return
        expires_at = datetime.fromisoformat(leased["expires_at"])
        unwrapped = await self.http.post(
            f"{self.vault_address}/v1/sys/wrapping/unwrap",
            headers={"X-Vault-Token": leased["wrapping_token"]},
        )
        if datetime.now(UTC) > expires_at - MARGIN:
            return  # too slow: the key is not used
        if unwrapped.status_code != 200:
            self.failures.append(f"unwrap: {unwrapped.status_code}")
            return
        key = b64decode(unwrapped.json()["data"]["plaintext"]).decode()
        used = await self.http.post(
            leased["messages_url"],
            headers={"x-api-key": key, "anthropic-version": "2023-06-01"},
            json={"model": "claude-haiku-5-5", "max_tokens": 1, "messages": []},
        )
        self._count("used" if used.status_code == 200 else f"use: {used.status_code}")

    async def validate(self) -> None:
        found = await self._post("admin", f"{self.path}/validations", 201)
        if found is not None:
            is_valid = found["status"] == "valid"
            self._count("validated" if is_valid else f"validation: {found['status']} {found['reason']}")

    async def repeat_until_stopped(self, task: Callable[[], Awaitable[None]]) -> None:
        while not self.stop.is_set():
            try:
                await task()
            except httpx.HTTPError as error:
                self.failures.append(f"{type(error).__name__} of {error.request.url.path}")

    async def rotate(self, previous_key: str) -> str:
        """Rotate to a new key. Revoke and destroy the previous one as soon as that is safe."""
        new_key = make_key()
        rotation = await self._post("admin", f"{self.path}/rotations", 201, api_key=new_key)
        assert rotation is not None, self.failures
        assert rotation["state"] == "activated"
        await until(self._is_safe, "the previous key is safe to revoke", seconds=TIMEOUT_SECONDS)
        self.provider.fake.behave(previous_key, "revoked")
        await self._post("admin", f"{self.path}/versions/{rotation['key_version'] - 1}/destroy", 200)
        return new_key

    async def _is_safe(self) -> bool:
        headers = {"Authorization": f"Bearer {self.tokens['admin']}"}
        found = await self.http.get(f"{self.service.url}{self.path}", headers=headers)
        return bool(found.json()["previous"]["safe_to_revoke"])

    async def _post(self, role: str, path: str, status: int, **body: str) -> dict[str, Any] | None:
        """Send a request. Returns the body if the status is the expected one, otherwise records a failure."""
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
        if outcome in {"used", "validated"}:
            self.done[outcome] = self.done.get(outcome, 0) + 1
        else:
            self.failures.append(outcome)


@asynccontextmanager
async def load_test_of(
    service: Service, provider: Served, key: str, *, vault_address: str | None
) -> AsyncIterator[LoadTest]:
    """Activate a key and run clients: half of them lease if there is a Vault, the others validate."""
    created = await service.save(ORGANIZATION, key)
    assert created.status_code == 201, created.text
    mode = {"mode": "byo", "credential_id": created.json()["id"]}
    switched = await service.request("PUT", f"/v1/organizations/{ORGANIZATION}/usage-mode", json=mode)
    assert switched.status_code == 200, switched.text
    # Shorter than the keep-alive timeout of every server, so that no request uses a connection that is being closed.
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=3 * CLIENTS, keepalive_expiry=2)
    async with httpx.AsyncClient(timeout=TIMEOUT_SECONDS, limits=limits, trust_env=False) as http:
        load_test = LoadTest(
            http=http,
            service=service,
            provider=provider,
            tokens={"service": await service.token("service"), "admin": await service.token()},
            path=created.headers["Location"],
            vault_address=vault_address,
        )
        tasks = [load_test.validate, load_test.validate if vault_address is None else load_test.lease_and_use]
        clients = [
            asyncio.create_task(load_test.repeat_until_stopped(tasks[number % 2]))
            for number in range(CLIENTS)
        ]
        try:
            yield load_test
        finally:
            load_test.stop.set()
            await asyncio.gather(*clients)


@pytest.mark.slow
class TestRotationUnderLoad:
    @pytest.mark.parametrize("vault", ["real" if is_real_vault_available() else "fake"])
    async def test_with_vault_no_request_fails(self, provider: Served, vault: str) -> None:
        key = make_key()
        async with (
            leasing_service(real=vault == "real", provider_url=provider.base_url, **UNLIMITED) as found,
            load_test_of(found.service, provider, key, vault_address=found.vault.address) as load_test,
        ):
            for _ in range(ROTATIONS):
                key = await load_test.rotate(key)

        assert load_test.failures == []
        assert min(load_test.done["used"], load_test.done["validated"]) >= ROTATIONS
        print(f"{vault}: {CLIENTS} clients, {ROTATIONS} rotations, {load_test.done}")

    async def test_with_the_embedded_store_no_request_fails(self, provider: Served) -> None:
        key = make_key()
        async with (
            running(PROVIDER__DEFAULT_BASE_URL=provider.base_url, **UNLIMITED) as service,
            load_test_of(service, provider, key, vault_address=None) as load_test,
        ):
            for _ in range(ROTATIONS):
                key = await load_test.rotate(key)

        assert load_test.failures == []
        assert load_test.done["validated"] >= ROTATIONS
        print(f"embedded: {CLIENTS} clients, {ROTATIONS} rotations, {load_test.done}")
