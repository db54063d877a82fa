"""Tests of starting, stopping and crashing the service with its embedded PostgreSQL, and of sharing the database."""

import asyncio
import signal
from collections.abc import AsyncIterator
from uuid import uuid4

import pytest

from tests.support.network.http_server import connect_to
from tests.support.processes.commands import byok
from tests.support.processes.service import Service, running, sharing_data_with, until
from tests.support.provider.fake_anthropic import FakeAnthropic, Served, make_key


@pytest.fixture(scope="module")
async def service(provider: Served) -> AsyncIterator[Service]:
    """A running service. Every test that stops it starts it again."""
    async with running(PROVIDER__DEFAULT_BASE_URL=provider.base_url, JOBS__INTERVAL="1s") as service:
        yield service


@pytest.fixture
def organization() -> str:
    return f"org_{uuid4().hex[:16]}"


async def labels(service: Service, organization: str) -> list[str]:
    listed = await service.request("GET", f"/v1/organizations/{organization}/provider-credentials")
    return [credential["label"] for credential in listed.json()["data"]]


class TestConnections:
    async def test_rejects_oversized_request_headers(self, service: Service) -> None:
        async with connect_to(service.port) as client:
            await client.send(b"GET /livez HTTP/1.1\r\n", *[b"x-more: and more\r\n" * 512] * 128)

            assert (await client.read_response()).status == 431
            assert await client.is_closed()


class TestStop:
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
    async def test_completes_running_requests_and_stops_postgresql(
        self, number: signal.Signals, service: Service, organization: str, fake_anthropic: FakeAnthropic
    ) -> None:
        key = make_key("slow")
        fake_anthropic.release.clear()
        pending_save = asyncio.create_task(service.save(organization, key, label="Under way"))
        await until(lambda: bool(fake_anthropic.requests_of(key)), "the provider is asked")
        shutdowns_before = service.stderr.count("Shutting down")

        service.send_signal(number)
        await until(
            lambda: service.stderr.count("Shutting down") > shutdowns_before, "the service prepares to end"
        )
        fake_anthropic.release.set()
        saved, code = await pending_save, await service.wait_for_exit()

        assert (saved.status_code, saved.json()["validation"]["status"]) == (201, "valid")
        assert code in {0, 128 + number}
        assert service.postmaster is None
        await service.start()
        assert await labels(service, organization) == ["Under way"]


class TestCrash:
    async def test_next_start_reuses_the_running_postgresql(
        self, service: Service, organization: str
    ) -> None:
        await service.save(organization, make_key(), label="Before the crash")
        before = service.postmaster

        await service.kill()
        await service.start()

        assert before is not None
        assert service.postmaster == before
        assert await labels(service, organization) == ["Before the crash"]

    async def test_next_start_recovers_the_data_after_postgresql_was_killed(
        self, service: Service, organization: str
    ) -> None:
        await service.save(organization, make_key(), label="Before the crash")

        await service.kill_with_postgresql()
        await service.start()

        assert await labels(service, organization) == ["Before the crash"]


class TestDoctor:
    async def test_passes_and_warns_about_unknown_variables(self, service: Service) -> None:
        found = await byok("doctor", cwd=service.home, **service.environment, PROVDER__TIMEOUT="1s")

        lines = found.stdout.splitlines()
        assert (found.code, lines[-1]) == (0, "Nothing failed. Read the warnings.")
        assert (
            lines[0]
            == "warn  settings: unknown settings: BYOK_PROVDER__TIMEOUT; see docs/reference/settings.md"
        )
        assert [line for line in lines if line.startswith("fail")] == []

    async def test_warns_with_the_reason_if_the_provider_is_unreachable(self, service: Service) -> None:
        environment = service.environment | {"PROVIDER__DEFAULT_BASE_URL": "http://127.0.0.1:9"}

        found = await byok("doctor", cwd=service.home, **environment)

        assert found.code == 0
        assert (
            "warn  provider: the default endpoint was not checked, because it cannot be reached"
            in found.stdout
        )
        assert "127.0.0.1:9" not in found.stdout
        assert service.postmaster is not None


class TestSharing:
    async def test_api_and_worker_share_a_database_and_the_last_one_stops_it(
        self, service: Service, organization: str
    ) -> None:
        await service.stop()
        async with (
            sharing_data_with(service, "serve", "--without-jobs") as api,
            sharing_data_with(service, "worker") as worker,
        ):
            await asyncio.gather(api.start(), worker.start())
            assert (await api.save(organization, make_key(), label="Shared")).status_code == 201

            await api.stop()
            still_runs = worker.postmaster
            code = await worker.stop()

            assert still_runs is not None
            assert code == 0
            assert worker.postmaster is None
        await service.start()
        assert await labels(service, organization) == ["Shared"]

    async def test_second_instance_on_the_same_port_exits_without_stopping_postgresql(
        self, service: Service
    ) -> None:
        async with sharing_data_with(service, "serve") as second:
            second.port = service.port
            second.launch()
            code = await second.wait_for_exit()
            stderr = second.stderr

        assert service.postmaster is not None
        assert code == 2
        assert "Error: BYOK_PORT: " in stderr
