"""`byok price-backfill`, run repeatedly next to the running service."""

from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy.ext.asyncio import create_async_engine

from tests.support.database.rows import change, fetch
from tests.support.processes.commands import byok
from tests.support.processes.service import Service, running
from tests.support.provider.fake_anthropic import Served

_EVENT = (
    "INSERT INTO usage_event (organization_id, started_at, event_id, correction, ingested_at, ingest_xid, mode,"
    " model, outcome, usage_source, uncached_input_tokens, cache_write_5m_tokens, cache_write_1h_tokens,"
    " cache_read_tokens, output_tokens, web_search_requests, cost, billed, flags)"
    " VALUES (:organization, :now, :model, 0, :now, 1, 'byo', :model, 'succeeded', 'reported', 1000, 0, 0, 0, 0, 0,"
    " NULL, 0, 0)"
)
_KEY = "INSERT INTO usage_event_key VALUES (:organization, :model, '', :now)"


class TestPriceBackfill:
    async def test_prints_what_it_priced_and_finds_nothing_the_second_time(self, provider: Served) -> None:
        organization = f"org_{uuid4().hex[:16]}"
        async with running(PROVIDER__DEFAULT_BASE_URL=provider.base_url) as service:
            await _record(service, organization, "claude-opus-5-5", "model-secret")

            first = await byok("price-backfill", cwd=service.home, **service.environment)
            second = await byok(
                "price-backfill", "--organization", organization, cwd=service.home, **service.environment
            )

            assert (first.code, first.stderr) == (0, "")
            assert first.stdout.splitlines() == [
                f"{organization}: 1 priced, 1 still without a price",
                "1 priced, 1 still without a price",
            ]
            assert second.stdout.splitlines()[-1] == "0 priced, 1 still without a price"
            engine = create_async_engine(service.database_url)
            found = await fetch(engine, "SELECT cost, billed FROM usage_event WHERE correction = 1")
            await engine.dispose()
            assert found == [{"cost": 4_000_000_000, "billed": 0}]

    @pytest.mark.parametrize("invalid", ["", "org acme", "*"])
    async def test_rejects_invalid_organization_ids(self, invalid: str, tmp_path: Path) -> None:
        rejected = await byok("price-backfill", "--organization", invalid, cwd=tmp_path)

        assert rejected.code == 2


async def _record(service: Service, organization: str, *models: str) -> None:
    engine = create_async_engine(service.database_url)
    for model in models:
        for statement in (_EVENT, _KEY):
            await change(engine, statement, organization=organization, model=model, now=datetime.now(UTC))
    await engine.dispose()
