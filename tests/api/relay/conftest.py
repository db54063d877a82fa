"""Fixtures of the relay's tests: the service on a real socket in front of a scripted provider."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any

import httpx
import pytest

from app.composition.bootstrap import open_services
from app.composition.database_access import DatabaseAccess
from app.core.services import Services
from app.settings.settings import Settings
from tests.support.relay.relay_service import RelayUser, WithSettings, listening, make_user
from tests.support.relay.scripted_provider import ScriptedProvider, serve_scripted
from tests.support.tenant import MakeToken


@pytest.fixture(scope="session")
async def scripted() -> AsyncIterator[ScriptedProvider]:
    async with serve_scripted() as provider:
        yield provider


@pytest.fixture(scope="session")
def relay_settings(settings: Settings, scripted: ScriptedProvider) -> Settings:
    provider = settings.provider.model_copy(update={"default_base_url": scripted.base_url})
    relay = settings.relay.model_copy(update={"managed": True})
    return settings.model_copy(update={"provider": provider, "relay": relay})


@pytest.fixture(scope="session")
async def relay_services(relay_settings: Settings, access: DatabaseAccess) -> AsyncIterator[Services]:
    async with open_services(relay_settings, access) as services:
        yield services


@pytest.fixture(scope="session")
async def relay_http(relay_services: Services) -> AsyncIterator[httpx.AsyncClient]:
    async with (
        listening(relay_services) as url,
        httpx.AsyncClient(base_url=url, limits=httpx.Limits(max_connections=None)) as client,
    ):
        yield client


@pytest.fixture
def make_relay_user(
    relay_http: httpx.AsyncClient,
    relay_services: Services,
    scripted: ScriptedProvider,
    make_token: MakeToken,
) -> Callable[[], RelayUser]:
    return lambda: make_user(relay_http, relay_services, scripted, make_token)


@pytest.fixture
async def user(make_relay_user: Callable[[], RelayUser]) -> RelayUser:
    """An organization with a valid key, in mode `byo`."""
    found = make_relay_user()
    await found.save_key()
    return found


@pytest.fixture
def with_settings(relay_settings: Settings, access: DatabaseAccess) -> WithSettings:
    @asynccontextmanager
    async def other_instance(
        user: RelayUser,
        *,
        base_url: str | None = None,
        database_timeout: timedelta | None = None,
        **changes: Any,
    ) -> AsyncIterator[RelayUser]:
        relay = relay_settings.relay.model_copy(update=changes)
        provider = relay_settings.provider
        if base_url is not None:
            provider = provider.model_copy(update={"default_base_url": base_url})
        database = relay_settings.database
        if database_timeout is not None:
            database = database.model_copy(update={"timeout": database_timeout})
        settings = relay_settings.model_copy(
            update={"relay": relay, "provider": provider, "database": database}
        )
        async with (
            open_services(settings, access) as services,
            listening(services) as url,
            httpx.AsyncClient(base_url=url, limits=httpx.Limits(max_connections=None)) as http,
        ):
            yield replace(user, services=services, admin=replace(user.admin, http=http))

    return other_instance
