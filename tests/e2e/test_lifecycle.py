"""Start, stop, crash, share: the process and the database that it brings along."""

import asyncio
import signal
from collections.abc import AsyncIterator
from uuid import uuid4

import pytest

from tests.e2e.commands import byok
from tests.e2e.service import Service, beside, running, until
from tests.fake_anthropic import FakeAnthropic, Served, make_key
from tests.integration.routers.listening import connected


@pytest.fixture(scope="module")
async def service(provider: Served) -> AsyncIterator[Service]:
    """One that runs; whatever a test does to it, it runs again afterwards."""
    async with running(PROVIDER__DEFAULT_BASE_URL=provider.base_url, JOBS__INTERVAL="1s") as service:
        yield service


@pytest.fixture
def organization() -> str:
    return f"org_{uuid4().hex[:16]}"


async def labels(service: Service, organization: str) -> list[str]:
    listed = await service.request("GET", f"/v1/organizations/{organization}/provider-credentials")
    return [credential["label"] for credential in listed.json()["data"]]


class TestConnections:
    async def test_a_head_without_an_end_is_refused(self, service: Service) -> None:
        async with connected(service.port) as client:
            await client.send(b"GET /livez HTTP/1.1\r\n", *[b"x-more: and more\r\n" * 512] * 128)

            assert (await client.answer()).status == 431
            assert await client.is_closed()


class TestStop:
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
    async def test_answers_what_is_under_way_stops_postgresql_and_keeps_the_data(
        self, number: signal.Signals, service: Service, organization: str, fake_anthropic: FakeAnthropic
    ) -> None:
        key = make_key("slow")
        fake_anthropic.release.clear()
        saving = asyncio.create_task(service.save(organization, key, label="Under way"))
        await until(lambda: bool(fake_anthropic.requests_of(key)), "the provider is asked")
        stops = service.stderr.count("Shutting down")

        service.tell(number)
        await until(lambda: service.stderr.count("Shutting down") > stops, "the service prepares to end")
        fake_anthropic.release.set()
        saved, code = await saving, await service.ended()

        assert (saved.status_code, saved.json()["validation"]["status"]) == (201, "valid")
        assert code in {0, 128 + number}
        assert service.postmaster is None
        await service.start()
        assert await labels(service, organization) == ["Under way"]


class TestCrash:
    async def test_the_next_start_takes_over_the_postgresql_that_was_left(
        self, service: Service, organization: str
    ) -> None:
        await service.save(organization, make_key(), label="Before the crash")
        before = service.postmaster

        await service.kill()
        await service.start()

        assert before is not None
        assert service.postmaster == before
        assert await labels(service, organization) == ["Before the crash"]

    async def test_the_next_start_recovers_what_died_with_postgresql(
        self, service: Service, organization: str
    ) -> None:
        await service.save(organization, make_key(), label="Before the crash")

        await service.lose_power()
        await service.start()

        assert await labels(service, organization) == ["Before the crash"]


class TestDoctor:
    async def test_finds_all_well_and_warns_of_variables_that_set_nothing(self, service: Service) -> None:
        found = await byok("doctor", cwd=service.home, **service.environment, PROVDER__TIMEOUT="1s")

        lines = found.stdout.splitlines()
        assert (found.code, lines[-1]) == (0, "All is well.")
        assert (
            lines[0] == "warn  settings: no such settings: BYOK_PROVDER__TIMEOUT; see the table in README.md"
        )
        assert [line for line in lines if line.startswith("fail")] == []

    async def test_fails_and_says_what_to_check_where_the_provider_is_out_of_reach(
        self, service: Service
    ) -> None:
        nobody = service.environment | {"PROVIDER__DEFAULT_BASE_URL": "http://127.0.0.1:9"}

        found = await byok("doctor", cwd=service.home, **nobody)

        assert found.code == 1
        assert "fail  provider: http://127.0.0.1:9: unreachable; check outgoing HTTPS" in found.stdout
        assert service.postmaster is not None


class TestSharing:
    async def test_api_and_worker_share_one_database_and_the_last_one_stops_it(
        self, service: Service, organization: str
    ) -> None:
        await service.stop()
        async with (
            beside(service, "serve", "--without-jobs") as api,
            beside(service, "worker") as worker,
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

    async def test_a_second_one_on_the_same_port_is_refused_and_leaves_postgresql_alone(
        self, service: Service
    ) -> None:
        async with beside(service, "serve") as second:
            second.port = service.port
            second.launch()
            code = await second.ended()
            said = second.stderr

        assert service.postmaster is not None
        assert code == 2
        assert "Error: BYOK_PORT: " in said
