"""Runs `byok serve` as a process in a network namespace, with a separate data directory, port and environment."""

import asyncio
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx

import app
from app.auth.principal import ROLES
from app.auth.signing_keys import EmbeddedIssuer
from tests.support.network.namespaces import Namespace
from tests.support.processes.commands import BYOK, private_directory
from tests.support.processes.commands import environment as environment_of
from tests.support.provider.fake_anthropic import make_key

START_SECONDS = 60
STOP_SECONDS = 40


@dataclass(frozen=True, kw_only=True)
class Admin:
    """One organization's admin, in the service's namespace."""

    namespace: Namespace
    http: httpx.Client
    organization: str
    token: str

    async def request(self, method: str, path: str, body: Any = None) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self.token}"}
        return await self.namespace.run(self.http.request, method, path, headers=headers, json=body)

    async def save(self, base_url: str, **fields: Any) -> httpx.Response:
        body = {"label": "Gateway", "api_key": make_key(), "base_url": base_url} | fields
        return await self.request("POST", self._credentials, body)

    async def validate(self, credential_id: str) -> dict[str, Any]:
        response = await self.request("POST", f"{self._credentials}/{credential_id}/validations")
        assert response.status_code == 201, response.text
        result: dict[str, Any] = response.json()
        return result

    async def saved(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = (await self.request("GET", self._credentials)).json()["data"]
        return found

    async def check_url(self, url: str) -> httpx.Response:
        return await self.request("POST", "/v1/provider-url-checks", {"url": url})

    @property
    def _credentials(self) -> str:
        return f"/v1/organizations/{self.organization}/provider-credentials"


@dataclass(frozen=True, kw_only=True)
class NamespacedService:
    """A running service."""

    namespace: Namespace
    http: httpx.Client
    process: "subprocess.Popen[bytes]"
    issuer: EmbeddedIssuer

    def admin(self) -> Admin:
        """Create an admin of a new organization."""
        organization = f"org_{uuid4().hex[:16]}"
        token = self.issuer.issue(
            subject="ada@example.com",
            organization_id=organization,
            scopes=ROLES["billing-admin"],
            ttl=timedelta(hours=1),
        )
        return Admin(namespace=self.namespace, http=self.http, organization=organization, token=token)

    def environment(self) -> dict[str, str]:
        """The environment of the process."""
        entries = Path(f"/proc/{self.process.pid}/environ").read_text().split("\0")
        return dict(entry.split("=", 1) for entry in entries if "=" in entry)

    def peak_memory(self) -> int:
        """The peak resident memory in bytes."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        (line,) = [line for line in status.splitlines() if line.startswith("VmHWM:")]
        return int(line.split()[1]) * 1024


@asynccontextmanager
async def service_in(
    namespace: Namespace, *, environment: Mapping[str, str], **settings: str
) -> AsyncIterator[NamespacedService]:
    """Start a service and wait until it is ready. All its processes are stopped on leaving."""
    with private_directory() as home:
        log = home / "log"
        env = environment_of(settings | {"DATA_DIR": str(home / "data")}) | dict(environment)
        env["PYTHONPATH"] = str(Path(app.__file__).parents[1])
        process = await namespace.run(_start, home, env, log)
        http = httpx.Client(base_url="http://127.0.0.1:8000", timeout=60, trust_env=False)
        try:
            async with asyncio.timeout(START_SECONDS):
                while not await namespace.run(_is_ready, http):
                    assert process.poll() is None, _last_lines(log)
                    await asyncio.sleep(0.05)
            issuer = EmbeddedIssuer.load_or_create(home / "data", audience="byok")
            yield NamespacedService(namespace=namespace, http=http, process=process, issuer=issuer)
        finally:
            await namespace.run(http.close)
            await asyncio.to_thread(_end, process, home / "data" / "postgres")


def _start(home: Path, environment: dict[str, str], log: Path) -> "subprocess.Popen[bytes]":
    with log.open("wb") as output:
        return subprocess.Popen(
            [*BYOK, "serve"],
            cwd=home,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,  # Ctrl-C must stop only the test run
        )


def _is_ready(http: httpx.Client) -> bool:
    try:
        return http.get("/readyz").status_code == 200
    except httpx.TransportError:
        return False


def _last_lines(log: Path) -> str:
    return log.read_text()[-2000:]


def _end(process: "subprocess.Popen[bytes]", cluster: Path) -> None:
    """Stop the service. If it had to be killed, stop its PostgreSQL too."""
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    with suppress(FileNotFoundError, ProcessLookupError):
        pid = int((cluster / "postmaster.pid").read_text().split("\n", 1)[0])
        if str(cluster) in Path(f"/proc/{pid}/cmdline").read_text():
            os.kill(pid, signal.SIGQUIT)
