"""Runs the service: `byok serve` or `byok worker` as a process with a separate data directory and port."""

import asyncio
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import sqlalchemy as sa

from app.auth.principal import ROLES, Scope
from app.auth.signing_keys import EmbeddedIssuer
from tests.support.database.migrated_cluster import copy_migrated_cluster
from tests.support.processes.commands import BYOK, TIMEOUT_SECONDS, environment, private_directory


async def until(
    condition: Callable[[], Awaitable[bool] | bool], what: str, *, seconds: float = TIMEOUT_SECONDS
) -> None:
    """Poll the condition; fail with `what` if it does not become true within `seconds`."""
    try:
        async with asyncio.timeout(seconds):
            while True:
                found = condition()
                if found if isinstance(found, bool) else await found:
                    return
                await asyncio.sleep(0.05)
    except TimeoutError:
        pytest.fail(f"did not happen: {what}")


@dataclass(kw_only=True)
class Service:
    """A `byok serve` or `byok worker` process and its output. The data survives a restart."""

    home: Path
    http: httpx.AsyncClient
    port: int
    command: tuple[str, ...]
    settings: dict[str, str]
    program: tuple[str, ...] = BYOK
    wrapper: tuple[str, ...] = ()  # a command that starts the process, such as `prlimit --nofile=256`
    _process: subprocess.Popen[bytes] | None = None
    _tokens: dict[tuple[str, ...], str] = field(default_factory=dict, repr=False)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def data_dir(self) -> Path:
        return self.home / "data"

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "not started"
        return self._process

    @property
    def stdout(self) -> str:
        return self._path("stdout").read_text(encoding="utf-8", errors="replace")

    @property
    def stderr(self) -> str:
        return self._path("stderr").read_text(encoding="utf-8", errors="replace")

    @property
    def environment(self) -> dict[str, str]:
        """Settings, without the prefix."""
        return {"PORT": str(self.port), "DATA_DIR": str(self.data_dir), **self.settings}

    def launch(self) -> None:
        """Start the process without waiting until it is ready."""
        with self._path("stdout").open("ab") as stdout, self._path("stderr").open("ab") as stderr:
            self._process = subprocess.Popen(
                [*self.wrapper, *self.program, *self.command],
                cwd=self.home,
                env=environment(self.environment),
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                start_new_session=True,  # Ctrl-C must stop only the test run
            )

    async def start(self) -> None:
        """Start the process and wait until it is ready."""
        ready_count = self.stdout.count("Background jobs are running") if self._path("stdout").exists() else 0
        self.launch()

        async def is_ready() -> bool:
            assert self.process.poll() is None, f"ended with {self.process.returncode}: {self.stderr[-2000:]}"
            if self.command[0] == "worker":
                return self.stdout.count("Background jobs are running") > ready_count
            with suppress(httpx.TransportError):
                return (await self.http.get("/readyz")).status_code == 200
            return False

        await until(is_ready, f"byok {self.command[0]} is ready")

    def send_signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def wait_for_exit(self) -> int:
        """Wait until the process ends and return its exit code."""
        await until(lambda: self.process.poll() is not None, "the process ends")
        return self.process.returncode

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.send_signal(number)
        return await self.wait_for_exit()

    def kill_if_running(self) -> None:
        """Kill the process if it is still running."""
        if self._process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    async def kill(self) -> None:
        """Kill the process, as the out-of-memory killer does."""
        self.process.kill()
        await self.wait_for_exit()

    async def kill_postgresql(self) -> None:
        """Kill only PostgreSQL."""
        postmaster = self.postmaster
        assert postmaster is not None, "PostgreSQL runs"
        postmaster.kill()
        # A dead postmaster looks alive until init has reaped it.
        await until(lambda: not postmaster.is_running(), "PostgreSQL is gone")

    async def kill_with_postgresql(self) -> None:
        """Kill the process and its PostgreSQL at the same time, as in a power failure."""
        self.process.kill()
        await self.kill_postgresql()
        await self.wait_for_exit()

    async def token(self, role: str = "billing-admin", organization: str = "*", *scopes: Scope) -> str:
        """A token that the embedded development key signs, with more scopes than its role has; cached."""
        arguments = (role, organization, *scopes)
        if arguments not in self._tokens:
            # What `byok token` does, without the start of a process.
            issuer = EmbeddedIssuer.load_or_create(Path(self.environment["DATA_DIR"]))
            self._tokens[arguments] = issuer.issue(
                subject="developer",
                organization_id=organization,
                scopes=ROLES[role] | set(scopes),
                ttl=timedelta(hours=1),
            )
        return self._tokens[arguments]

    async def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Send a request as an admin of all organizations."""
        headers = {"Authorization": f"Bearer {await self.token()}"} | options.pop("headers", {})
        return await self.http.request(method, path, headers=headers, **options)

    async def save(self, organization: str, key: str, **fields: Any) -> httpx.Response:
        path = f"/v1/organizations/{organization}/provider-credentials"
        return await self.request("POST", path, json={"label": "Acme", "api_key": key} | fields)

    @property
    def postmaster(self) -> psutil.Process | None:
        """The PostgreSQL that uses the data directory."""
        return postmaster_on(self.data_dir)

    @property
    def database_url(self) -> sa.URL:
        """The URL of the superuser, who sees all organizations. PostgreSQL must be running."""
        lines = (self.data_dir / "postgres" / "postmaster.pid").read_text().splitlines()
        return sa.URL.create(
            "postgresql+asyncpg",
            username="postgres",
            database="byok",
            query={"host": lines[4]},
        )

    def _path(self, stream: str) -> Path:
        return self.home / f"{self.command[0]}.{stream}"


def postmaster_on(data_dir: Path) -> psutil.Process | None:
    """The PostgreSQL that uses a data directory, according to its pid file; None if it does not run."""
    cluster = data_dir / "postgres"
    try:
        process = psutil.Process(int((cluster / "postmaster.pid").read_text().split("\n", 1)[0]))
        uses_data_dir = str(cluster) in process.cmdline() and process.status() != psutil.STATUS_ZOMBIE
    except (FileNotFoundError, ValueError, psutil.NoSuchProcess):
        return None
    return process if uses_data_dir else None


@asynccontextmanager
async def stopped_service(*command: str, **settings: str) -> AsyncIterator[Service]:
    """A service that is not started yet. All its processes are stopped on leaving.

    Without a database in the settings, its embedded PostgreSQL has the tables already.
    """
    with private_directory() as home:
        async with _at(home, command or ("serve",), settings) as service:
            if not {"DATABASE__URL", "DATABASE__MIGRATION_URL", "DATA_DIR"} & settings.keys():
                await asyncio.to_thread(copy_migrated_cluster, service.data_dir)
            try:
                yield service
            finally:
                service.kill_if_running()
                postmaster = service.postmaster
                if postmaster is not None:
                    postmaster.send_signal(signal.SIGQUIT)
                    await until(lambda: not postmaster.is_running(), "PostgreSQL ends")


@asynccontextmanager
async def running(*command: str, **settings: str) -> AsyncIterator[Service]:
    """A service that is started and ready."""
    async with stopped_service(*command, **settings) as service:
        await service.start()
        yield service


@asynccontextmanager
async def sharing_data_with(other: Service, *command: str) -> AsyncIterator[Service]:
    """Another process with the same data directory, not started yet."""
    async with _at(other.home, command, other.settings) as service:
        try:
            yield service
        finally:
            service.kill_if_running()


@asynccontextmanager
async def _at(home: Path, command: tuple[str, ...], settings: dict[str, str]) -> AsyncIterator[Service]:
    port = free_port()
    # Shorter than the server's 5 seconds, so that a request never meets the end of an idle connection.
    limits = httpx.Limits(max_connections=100, max_keepalive_connections=20, keepalive_expiry=2)
    async with httpx.AsyncClient(
        base_url=f"http://127.0.0.1:{port}", timeout=TIMEOUT_SECONDS, trust_env=False, limits=limits
    ) as http:
        yield Service(home=home, http=http, port=port, command=command, settings=settings)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port
