"""`byok worker` serves its metrics and liveness, and ends with status 0 after a signal."""

import signal
from collections.abc import AsyncIterator

import httpx
import pytest

from tests.support.processes.commands import byok
from tests.support.processes.service import Service, free_port, running


@pytest.fixture(scope="module")
async def worker() -> AsyncIterator[Service]:
    port = free_port()
    async with running("worker", METRICS_PORT=str(port), JOBS__INTERVAL="1s") as service:
        yield service


@pytest.fixture(scope="module")
async def http(worker: Service) -> AsyncIterator[httpx.AsyncClient]:
    url = f"http://127.0.0.1:{worker.settings['METRICS_PORT']}"
    async with httpx.AsyncClient(base_url=url, trust_env=False) as client:
        yield client


class TestWorker:
    async def test_serves_metrics(self, http: httpx.AsyncClient) -> None:
        response = await http.get("/metrics")

        assert (response.status_code, response.headers["content-type"]) == (
            200,
            "text/plain; version=0.0.4; charset=utf-8",
        )
        assert "byok_database_connections_in_use" in response.text

    async def test_serves_liveness(self, http: httpx.AsyncClient) -> None:
        assert (await http.get("/livez")).json() == {"status": "ok"}
        assert (await http.head("/livez")).content == b""

    async def test_serves_nothing_else(self, http: httpx.AsyncClient) -> None:
        assert (await http.get("/v1/organizations/org_acme/provider-credentials")).status_code == 404
        assert (await http.post("/metrics")).status_code == 405

    async def test_refuses_a_port_that_is_in_use(self, worker: Service) -> None:
        refused = await byok("worker", cwd=worker.home, **worker.environment)

        assert refused.code == 2
        assert "BYOK_METRICS_PORT: the port is in use" in refused.stderr

    async def test_ends_with_status_0(self, worker: Service) -> None:
        assert await worker.stop(signal.SIGTERM) == 0
        await worker.start()
        assert await worker.stop(signal.SIGINT) == 0
