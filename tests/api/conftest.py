"""What the API's tests share: a provider that thinks until told otherwise, and one that is never asked."""

from collections.abc import AsyncIterator, Iterator
from dataclasses import replace

import pytest

from app.core.services import Services
from app.database.engine import Database
from app.database.unit_of_work import UnitsOfWork
from app.egress.anthropic import AnthropicClient
from app.egress.http_client import http_client
from app.settings.environment import Settings
from tests.api.spending import Spenders, spenders_of
from tests.api.usage import Ledger
from tests.api.vaulted import ADDRESS, FakeWrapper, Vaulted
from tests.assembly import assemble, client_of
from tests.conftest import MakeTenant, MakeToken, Tenant
from tests.fake_anthropic import FakeAnthropic
from tests.fakes import FakeSecretStore
from tests.interruptions import ApprovingProber


@pytest.fixture
def thinking_provider(fake_anthropic: FakeAnthropic) -> Iterator[FakeAnthropic]:
    """Holds back its answers to `slow` keys until `release` is set, at the latest when the test ends."""
    fake_anthropic.release.clear()
    fake_anthropic.arrived.clear()
    yield fake_anthropic
    fake_anthropic.release.set()


@pytest.fixture
def unasked_provider(fake_anthropic: FakeAnthropic) -> Iterator[FakeAnthropic]:
    """Sees to it that nothing arrives while the test runs."""
    before = len(fake_anthropic.journal)
    yield fake_anthropic
    assert fake_anthropic.journal[before:] == []


@pytest.fixture
async def prober(settings: Settings) -> AsyncIterator[AnthropicClient]:
    """The real client."""
    async with http_client(ca_file=settings.provider.ca_file) as http:
        yield AnthropicClient(http)


@pytest.fixture
def ledger(make_tenant: MakeTenant, make_token: MakeToken) -> Ledger:
    """An organization's ledger of its own."""
    tenant = make_tenant()
    return Ledger(tenant=tenant, service=replace(tenant, token=make_token("service")))


@pytest.fixture
def spenders(tenant: Tenant, make_token: MakeToken) -> Spenders:
    return spenders_of(tenant, make_token)


@pytest.fixture
async def vaulted(
    services: Services,
    database: Database,
    tenant: Tenant,
    make_token: MakeToken,
) -> AsyncIterator[Vaulted]:
    """A service that can lease."""
    store = FakeSecretStore()
    wrapper = FakeWrapper(store)
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
        yield Vaulted(admin=admin, service=replace(admin, token=make_token("service")), wrapper=wrapper)
