"""The process protects its memory, and silent connections lock no client out."""

import asyncio
import resource
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from tests.support.processes.commands import byok
from tests.support.processes.service import Service, running, stopped_service, until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

DESCRIPTORS = 256
SILENT = 400
PR_GET_DUMPABLE = "ctypes.CDLL(None).prctl(3, 0, 0, 0, 0)"


def limit_of(service: Service, name: str) -> tuple[str, str]:
    """The soft and the hard limit of a running process."""
    lines = Path(f"/proc/{service.process.pid}/limits").read_text().splitlines()
    soft, hard = next(line for line in lines if line.startswith(name)).removeprefix(name).split()[:2]
    return soft, hard


@pytest.fixture(scope="module")
async def service() -> AsyncIterator[Service]:
    """A service that may open few descriptors, and that may write core dumps of any size until it forbids them."""
    if shutil.which("prlimit") is None:
        pytest.skip("prlimit is not installed")
    async with stopped_service() as service:
        service.wrapper = ("prlimit", f"--nofile=64:{DESCRIPTORS}", "--core=unlimited:unlimited")
        await service.start()
        yield service


@pytest.fixture(scope="module")
async def changed() -> AsyncIterator[Service]:
    """A service with other values than the defaults."""
    async with stopped_service(
        PROCESS__ALLOW_CORE_DUMPS="true",
        PROCESS__KEEP_ALIVE="1s",
        HOST="0.0.0.0",  # noqa: S104  # on purpose
        ALLOW_REMOTE_DEVELOPMENT="true",
    ) as service:
        service.wrapper = ("prlimit", "--core=4096:8192")
        await service.start()
        yield service


class TestCoreDumps:
    async def test_are_forbidden_in_serve_and_worker(self, service: Service) -> None:
        async with running("worker") as worker:
            assert limit_of(worker, "Max core file size") == ("0", "0")

        assert limit_of(service, "Max core file size") == ("0", "0")

    def test_memory_cannot_be_read_by_other_processes_of_the_user(self) -> None:
        code = (
            "import ctypes; from app.core.process_limits import forbid_core_dumps;"
            f"before = {PR_GET_DUMPABLE}; forbid_core_dumps(); print(before, {PR_GET_DUMPABLE})"
        )

        printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

        assert printed.stdout.split() == ["1", "0"]

    def test_may_be_allowed_in_development(self, changed: Service) -> None:
        assert limit_of(changed, "Max core file size") == ("4096", "8192")

    async def test_crash_writes_none(self) -> None:
        async with stopped_service() as service:
            service.wrapper = ("prlimit", "--core=unlimited:unlimited")
            await service.start()

            await service.stop(signal.SIGABRT)

            assert list(service.home.glob("core*")) == []


class TestKeepAlive:
    async def test_an_idle_connection_is_closed_after_the_time_that_is_set(self, changed: Service) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", changed.port)
        writer.write(b"GET /livez HTTP/1.1\r\nHost: byok\r\n\r\n")

        async with asyncio.timeout(20):  # the default is 65 seconds
            received = await reader.read()  # until the service closes the connection
        writer.close()

        assert received.startswith(b"HTTP/1.1 200 ")


class TestDescriptors:
    def test_soft_limit_is_raised_to_the_hard_limit(self, service: Service) -> None:
        assert limit_of(service, "Max open files") == (str(DESCRIPTORS), str(DESCRIPTORS))

    @pytest.fixture
    def silent_connections(self, service: Service) -> Iterator[int]:
        with ExitStack() as connections:
            for _ in range(SILENT):
                connections.enter_context(socket.create_connection(("127.0.0.1", service.port)))
            yield SILENT

    async def test_silent_connections_lock_no_client_out(
        self, service: Service, silent_connections: int
    ) -> None:
        assert silent_connections > DESCRIPTORS
        for _ in range(20):
            async with httpx.AsyncClient(base_url=service.url, timeout=5, trust_env=False) as client:
                assert (await client.get("/readyz")).status_code == 200

        metrics = (await service.http.get("/metrics")).text
        assert 'byok_http_connections_closed_total{reason="displaced"}' in metrics
        assert "connection_limit_reached" in service.stdout + service.stderr

    async def test_lack_of_descriptors_is_logged_and_counted(self, service: Service) -> None:
        pid = service.process.pid
        before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, before[1]))
        try:
            await until(
                lambda: "accepting_stopped" in service.stdout + service.stderr, "the log reports the lack"
            )
        finally:
            resource.prlimit(pid, resource.RLIMIT_NOFILE, before)

        async with httpx.AsyncClient(base_url=service.url, timeout=5, trust_env=False) as client:
            metrics = (await client.get("/metrics")).text
        assert "byok_http_accepting_stopped_total 0.0" not in metrics


class TestListeningHost:
    async def test_development_refuses_to_listen_beyond_loopback(self, tmp_path: Path) -> None:
        refused = await byok("serve", cwd=tmp_path, HOST="0.0.0.0")  # noqa: S104  # it must refuse

        assert refused.code == 2
        assert refused.stderr.startswith("Error: BYOK_HOST: development listens only on loopback")

    async def test_setting_allows_it(self, changed: Service) -> None:
        assert (await asyncio.wait_for(changed.http.get("/livez"), 5)).status_code == 200
