"""Fixtures of the API tests: fake providers, the ledger of an organization, and a service that can create leases."""

from collections.abc import AsyncIterator, Iterator
from dataclasses import replace

import pytest

from app.core.services import Services
from app.database.engine import Database
from app.database.unit_of_work import UnitsOfWork
from app.egress.anthropic import AnthropicClient
from app.egress.http_client import http_client
from app.settings.settings import Settings
from tests.support.fakes import FakeSecretStore
from tests.support.fault_injection import ApprovingProber
from tests.support.provider.fake_anthropic import FakeAnthropic
from tests.support.requests.spend_limits import SpendClients, spend_clients_of
from tests.support.requests.usage_events import Ledger
from tests.support.service_builder import assemble, client_of
from tests.support.tenant import MakeTenant, MakeToken, Tenant
from tests.support.vault.lease_service import ADDRESS, FakeKeyWrapper, LeaseApi


@pytest.fixture
def slow_provider(fake_anthropic: FakeAnthropic) -> Iterator[FakeAnthropic]:
    """The fake provider; it responds to `slow` keys only when `release` is set or the test ends."""
    fake_anthropic.release.clear()
    fake_anthropic.arrived.clear()
    yield fake_anthropic
    fake_anthropic.release.set()


@pytest.fixture
def uncalled_provider(fake_anthropic: FakeAnthropic) -> Iterator[FakeAnthropic]:
    """The fake provider; the test fails if it receives a request."""
    before = len(fake_anthropic.journal)
    yield fake_anthropic
    assert fake_anthropic.journal[before:] == []


@pytest.fixture
async def prober(settings: Settings) -> AsyncIterator[AnthropicClient]:
    """The real client of the provider."""
    async with http_client(ca_file=settings.provider.ca_file) as http:
        yield AnthropicClient(http)


@pytest.fixture
def ledger(make_tenant: MakeTenant, make_token: MakeToken) -> Ledger:
    """The ledger of a new organization."""
    tenant = make_tenant()
    return Ledger(tenant=tenant, service=replace(tenant, token=make_token("service")))


@pytest.fixture
def clients(tenant: Tenant, make_token: MakeToken) -> SpendClients:
    return spend_clients_of(tenant, make_token)


@pytest.fixture
async def lease_api(
    services: Services,
    database: Database,
    tenant: Tenant,
    make_token: MakeToken,
) -> AsyncIterator[LeaseApi]:
    """A service that can create leases."""
    store = FakeSecretStore()
    wrapper = FakeKeyWrapper(store)
    assembled = assemble(
        services,
        units=UnitsOfWork(database),
        store=store,
        prober=ApprovingProber(),
        wrapper=wrapper,
        vault_address=ADDRESS,
    )
    async with client_of(assembled) as client:
        admin = replace(tenant, http=client)
        yield LeaseApi(admin=admin, service=replace(admin, token=make_token("service")), wrapper=wrapper)
