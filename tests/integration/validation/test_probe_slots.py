"""Hosts of one organization that hang do not use up the connections for the probes of the others."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.auth.principal import Caller
from app.core.clock import new_id
from app.core.services import Services
from app.credentials.service import CredentialService, NewCredential
from app.database.engine import Database
from app.provider_url.url import ProviderURL
from app.validation.runner import CUSTOM_PROBES_PER_ORGANIZATION, ValidationRunner
from tests.support.credentials.fixture_types import MakeCaller
from tests.support.credentials.organization_harness import make_key
from tests.support.credentials.periodic_validation import PeriodicValidationHarness
from tests.support.database.rows import fetch
from tests.support.polling import until


@pytest.fixture
async def harness(
    services: Services, own_database: Database, own_superuser: AsyncEngine
) -> AsyncIterator[PeriodicValidationHarness]:
    harness = PeriodicValidationHarness(services, own_database, own_superuser)
    yield harness
    harness.prober.gate.set()
    await harness.instance[ValidationRunner].close()
    await harness.clear()


async def save(harness: PeriodicValidationHarness, caller: Caller, host: str | None) -> str:
    """Save a key without waiting for its validation. Returns the key."""
    key = make_key()
    new = NewCredential(
        label="Acme",
        key=key,
        base_url=None if host is None else ProviderURL(f"https://{host}"),
        auth_style=None,
        workspace_id=None,
        probe_model=None,
    )
    await harness.instance[CredentialService].register(caller, new, credential_id=new_id(), wait=False)
    return key.reveal()


async def test_an_organization_probes_a_limited_number_of_custom_hosts_at_a_time(
    harness: PeriodicValidationHarness, make_caller: MakeCaller
) -> None:
    harness.prober.gate.clear()
    other = make_caller()

    async def probed() -> set[str]:
        return set(harness.prober.probes_by_key)

    hosts = [f"host-{number}.example.com" for number in range(CUSTOM_PROBES_PER_ORGANIZATION + 8)]
    hanging = set(await asyncio.gather(*(save(harness, harness.caller, host) for host in hosts)))
    await until(probed, lambda keys: len(keys & hanging) == CUSTOM_PROBES_PER_ORGANIZATION)
    default_endpoint = await save(harness, harness.caller, None)
    elsewhere = await save(harness, other, "elsewhere.example.com")

    keys = await until(probed, lambda keys: {default_endpoint, elsewhere} <= keys)
    assert len(keys & hanging) == CUSTOM_PROBES_PER_ORGANIZATION


async def test_a_probe_that_was_not_sent_does_not_blame_the_host(
    harness: PeriodicValidationHarness, own_superuser: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(harness.instance[ValidationRunner]._custom_probes, "queue_timeout_seconds", 0.1)
    harness.prober.gate.clear()
    for number in range(CUSTOM_PROBES_PER_ORGANIZATION + 1):
        await save(harness, harness.caller, f"host-{number}.example.com")

    async def unsent() -> list[dict[str, Any]]:
        finished = (
            "SELECT status, reason FROM credential_validation"
            " WHERE organization_id = :organization AND status <> 'pending'"
        )
        return await fetch(own_superuser, finished, organization=harness.caller.organization_id)

    results = await until(unsent, bool)
    assert [(row["status"], row["reason"]) for row in results] == [("indeterminate", "interrupted")]
