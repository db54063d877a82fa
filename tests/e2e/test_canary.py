"""Sends a key of this run to every input of a running service, then searches every output for it."""

from collections.abc import AsyncIterator

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine

from tests.support.canary_attack import LABEL, Attack
from tests.support.output_sinks import Sinks, collector, files_of, tables_of
from tests.support.processes.service import Service, running
from tests.support.provider.fake_anthropic import FakeAnthropic, Served

# One behaviour of each kind that the client distinguishes, and those that return the key.
BEHAVIOURS = (
    *("valid", "invalid", "echo", "redirect", "redirect303", "html200", "html403", "huge", "err500"),
    *("ratelimited", "overloaded", "orgscoped", "ok200err", "teapot"),
)


@pytest.fixture(scope="module")
async def attack(provider: Served, fake_anthropic: FakeAnthropic) -> AsyncIterator[Attack]:
    """Run all requests and collect all outputs."""
    sinks = Sinks()
    async with (
        collector(sinks) as endpoint,
        running(
            PROVIDER__DEFAULT_BASE_URL=provider.base_url,
            DEBUG="true",
            JOBS__INTERVAL="1s",
            OTEL_EXPORTER_OTLP_ENDPOINT=endpoint,
        ) as service,
    ):
        attack = Attack(service, sinks, fake_anthropic)
        for behaviour in BEHAVIOURS:
            await attack.save(f"provider behaviour {behaviour}", behaviour=behaviour)
        await attack.repeat("Idempotency-Key")
        await attack.send_everywhere("no failures")
        await save_with_broken_store(service, attack)
        await save_with_broken_table(service, attack)
        sinks.add_response("metrics", metrics := await service.http.get("/metrics"))
        sinks.add("metrics", metrics.content)
        await save_without_postgresql(service, attack)
        await service.start()
        engine = create_async_engine(service.database_url)
        async for relation, rows in tables_of(engine):
            sinks.add("tables", f"{relation}\n{rows}")
        await engine.dispose()
        await service.stop()
        sinks.add("standard output", service.stdout)
        sinks.add("standard error", service.stderr)
        for name, content in files_of(service.home):
            sinks.add("files", name.encode() + b"\n" + content)
        yield attack


class TestRunningService:
    """The key does not leak, whatever is sent and whichever dependency fails."""

    async def test_accepts_the_key_only_in_its_own_field(self, attack: Attack) -> None:
        assert attack.statuses["save, provider behaviour valid"] == {201}
        assert attack.statuses["key as the new label"] == {422}
        assert attack.statuses["no failures: key as POST feature of an event"] == {200}
        assert attack.statuses["no failures: key as POST feature of an event, as a line"] == {200}
        assert attack.statuses["no failures: key as POST label of the body"] == {422}
        refused = {
            f"no failures: {variant} as POST whole" for variant in ("newline", "trailing space", "U+2011")
        }
        assert {status for name in refused for status in attack.statuses[name]} == {422}

    async def test_failures_had_the_expected_status(self, attack: Attack) -> None:
        assert attack.statuses["save, no secret store"] == {503}
        assert attack.statuses["save, unexpected error"] == {500}
        assert attack.statuses["save, no database"] == {503}

    @pytest.mark.parametrize("sink", ["responses", "response headers", "response bodies"])
    async def test_key_is_not_in_responses(self, attack: Attack, sink: str) -> None:
        assert attack.sinks.contains("response bodies", LABEL)
        assert attack.leaks(sink) == []

    @pytest.mark.parametrize("sink", ["standard output", "standard error"])
    async def test_key_is_not_in_the_output(self, attack: Attack, sink: str) -> None:
        assert attack.sinks.contains("standard error", "unhandled")
        assert attack.sinks.contains("standard output", "Pharaoh BYOK")
        assert attack.leaks(sink) == []

    async def test_key_is_not_in_spans(self, attack: Attack) -> None:
        assert attack.sinks.contains("spans", "/v1/organizations/{organization_id}/provider-credentials")
        assert attack.leaks("spans") == []

    async def test_key_is_not_in_metrics(self, attack: Attack) -> None:
        assert attack.sinks.contains("metrics", 'route="unknown"')
        assert attack.leaks("metrics") == []

    async def test_key_is_not_in_tables(self, attack: Attack) -> None:
        assert attack.sinks.contains("tables", LABEL)
        assert attack.sinks.contains("tables", "public.sealed_secret")
        assert attack.leaks("tables") == []

    async def test_key_is_not_in_files(self, attack: Attack) -> None:
        assert attack.sinks.contains("files", LABEL)
        assert attack.leaks("files") == []


async def save_with_broken_store(service: Service, attack: Attack) -> None:
    """Use encrypted keys that cannot be decrypted, then save with a table that cannot be written."""
    organization = await attack.save("before the store breaks")
    listed = await service.request("GET", f"/v1/organizations/{organization}/provider-credentials")
    await as_superuser(service, "UPDATE sealed_secret SET sealed = sealed || '\\x00'")
    await attack.use("corrupt secret", organization, listed.json()["data"][0]["id"])
    await as_superuser(service, "REVOKE ALL ON sealed_secret FROM byok_service")
    await attack.save("no secret store")
    await as_superuser(service, "GRANT SELECT, INSERT, UPDATE ON sealed_secret TO byok_service")


async def save_with_broken_table(service: Service, attack: Attack) -> None:
    """Cause an unexpected error, so that the service responds with 500."""
    await as_superuser(service, "ALTER TABLE credential_validation RENAME TO elsewhere")
    await attack.save("unexpected error")
    await as_superuser(service, "ALTER TABLE elsewhere RENAME TO credential_validation")


async def save_without_postgresql(service: Service, attack: Attack) -> None:
    await service.kill_postgresql()
    await attack.save("no database")
    await attack.send_everywhere("no database", "key")
    await service.kill()


async def as_superuser(service: Service, statement: str) -> None:
    engine = create_async_engine(service.database_url)
    async with engine.begin() as connection:
        await connection.execute(sa.text(statement))
    await engine.dispose()
