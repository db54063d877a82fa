"""The running service: a `byok serve` or `byok worker` with a data directory and a port of its own."""

import asyncio
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import sqlalchemy as sa

from tests.e2e.commands import BYOK, PATIENCE_SECONDS, byok, environment, private_directory


async def until(
    condition: Callable[[], Awaitable[bool] | bool], what: str, *, seconds: float = PATIENCE_SECONDS
) -> None:
    """Look again and again; fail saying what did not come to pass."""
    try:
        async with asyncio.timeout(seconds):
            while True:
                found = condition()
                if found if isinstance(found, bool) else await found:
                    return
                await asyncio.sleep(0.05)
    except TimeoutError:
        pytest.fail(f"did not come to pass: {what}")


@dataclass(kw_only=True)
class Service:
    """A `byok serve` or `byok worker`, and what it has written so far. Starting again keeps the data."""

    home: Path
    http: httpx.AsyncClient
    port: int
    command: tuple[str, ...]
    settings: dict[str, str]
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
        """Start the process without waiting for anything."""
        with self._path("stdout").open("ab") as stdout, self._path("stderr").open("ab") as stderr:
            self._process = subprocess.Popen(
                [*BYOK, *self.command],
                cwd=self.home,
                env=environment(self.environment),
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                start_new_session=True,  # Ctrl-C is the test run's
            )

    async def start(self) -> None:
        """Start, and wait until it is ready for work."""
        greetings = self.stdout.count("Jobs run") if self._path("stdout").exists() else 0
        self.launch()

        async def is_ready() -> bool:
            assert self.process.poll() is None, f"ended with {self.process.returncode}: {self.stderr[-2000:]}"
            if self.command[0] == "worker":
                return self.stdout.count("Jobs run") > greetings
            with suppress(httpx.TransportError):
                return (await self.http.get("/readyz")).status_code == 200
            return False

        await until(is_ready, f"byok {self.command[0]} is ready")

    def tell(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def ended(self) -> int:
        """Wait for the end, and return the exit code."""
        await until(lambda: self.process.poll() is not None, "the process ends")
        return self.process.returncode

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.tell(number)
        return await self.ended()

    def end(self) -> None:
        """Whatever state it is in."""
        if self._process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    async def kill(self) -> None:
        """As by the out-of-memory killer."""
        self.process.kill()
        await self.ended()

    async def lose_postgresql(self) -> None:
        """PostgreSQL alone dies."""
        postmaster = self.postmaster
        assert postmaster is not None, "PostgreSQL runs"
        postmaster.kill()
        # Until init has taken note of its end, a dead postmaster looks like one that runs.
        await until(lambda: not postmaster.is_running(), "PostgreSQL is gone")

    async def lose_power(self) -> None:
        """The process and its PostgreSQL die at once."""
        self.process.kill()
        await self.lose_postgresql()
        await self.ended()

    async def token(self, role: str = "billing-admin", organization: str = "*") -> str:
        """From `byok token`; the same one for the same question."""
        asked = ("--role", role, "--organization", organization)
        if asked not in self._tokens:
            ended = await byok("token", *asked, cwd=self.home, **self.environment)
            assert ended.code == 0, ended.stderr
            self._tokens[asked] = ended.stdout.strip()
        return self._tokens[asked]

    async def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        """As an admin of every organization."""
        headers = {"Authorization": f"Bearer {await self.token()}"} | options.pop("headers", {})
        return await self.http.request(method, path, headers=headers, **options)

    async def save(self, organization: str, key: str, **fields: Any) -> httpx.Response:
        path = f"/v1/organizations/{organization}/provider-credentials"
        return await self.request("POST", path, json={"label": "Acme", "api_key": key} | fields)

    @property
    def postmaster(self) -> psutil.Process | None:
        """The PostgreSQL that runs on the data directory."""
        return postmaster_on(self.data_dir)

    @property
    def database_url(self) -> sa.URL:
        """The owner's, while PostgreSQL runs."""
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
    """The PostgreSQL that runs on a data directory, if one does. Only its own pid file is believed."""
    cluster = data_dir / "postgres"
    try:
        process = psutil.Process(int((cluster / "postmaster.pid").read_text().split("\n", 1)[0]))
        is_ours = str(cluster) in process.cmdline() and process.status() != psutil.STATUS_ZOMBIE
    except (FileNotFoundError, ValueError, psutil.NoSuchProcess):
        return None
    return process if is_ours else None


@asynccontextmanager
async def installed(*command: str, **settings: str) -> AsyncIterator[Service]:
    """A service that is not started yet. Whatever it leaves running is ended."""
    with private_directory() as home:
        async with _at(home, command or ("serve",), settings) as service:
            try:
                yield service
            finally:
                service.end()
                left = service.postmaster
                if left is not None:
                    left.send_signal(signal.SIGQUIT)
                    await until(lambda: not left.is_running(), "PostgreSQL ends")


@asynccontextmanager
async def running(*command: str, **settings: str) -> AsyncIterator[Service]:
    """A service that is ready."""
    async with installed(*command, **settings) as service:
        await service.start()
        yield service


@asynccontextmanager
async def beside(other: Service, *command: str) -> AsyncIterator[Service]:
    """Another process over the same data directory, not started yet."""
    async with _at(other.home, command, other.settings) as service:
        try:
            yield service
        finally:
            service.end()


@asynccontextmanager
async def _at(home: Path, command: tuple[str, ...], settings: dict[str, str]) -> AsyncIterator[Service]:
    port = _free_port()
    async with httpx.AsyncClient(
        base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE_SECONDS, trust_env=False
    ) as http:
        yield Service(home=home, http=http, port=port, command=command, settings=settings)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port
