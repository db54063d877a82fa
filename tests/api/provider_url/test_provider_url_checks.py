"""Tests of the provider URL check: it reports the same as saving, and has no side effects."""

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import httpx
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.auth.principal import Scope
from app.core.clock import now
from app.core.services import Services
from app.database.engine import Database
from app.settings.settings import Settings
from tests.support.database.rows import change, fetch
from tests.support.provider.custom_endpoint_service import (
    OTHER_HOST,
    REFUSED_BY_DNS,
    REFUSED_BY_POLICY,
    SILENT_HOST,
    URL,
    CustomEndpointService,
    custom_endpoint_service,
)
from tests.support.provider.fake_anthropic import Served, make_key
from tests.support.tenant import MakeTenant, MakeToken, Tenant

PATH = "/v1/provider-url-checks"
PER_MINUTE = 30


@pytest.fixture
async def endpoint_service(
    services: Services, database: Database, provider: Served
) -> AsyncIterator[CustomEndpointService]:
    async with custom_endpoint_service(
        services, database, provider, url_checks_per_minute=PER_MINUTE
    ) as endpoint_service:
        yield endpoint_service


@pytest.fixture
def admin(tenant: Tenant, endpoint_service: CustomEndpointService) -> Tenant:
    return replace(tenant, http=endpoint_service.http)


async def check(tenant: Tenant, url: Any) -> httpx.Response:
    return await tenant.post(PATH, json={"url": url})


async def exhaust_rate_limit(superuser: AsyncEngine, organization: str) -> None:
    """Exhaust this minute's limit and the next one's, in case the minute ends during the test."""
    minute = now().replace(second=0, microsecond=0)
    for start in (minute, minute + timedelta(minutes=1)):
        await change(
            superuser,
            "INSERT INTO rate_counter VALUES (:organization, 'url_checks', :start, :requests)",
            organization=organization,
            start=start,
            requests=PER_MINUTE,
        )


class TestCheckProviderUrl:
    @pytest.mark.parametrize("url", [URL, f"{URL}/v1", f"{URL}:443/v1/messages/", URL.upper()])
    async def test_returns_the_canonical_form_of_an_accepted_url(self, admin: Tenant, url: str) -> None:
        response = await check(admin, url)

        assert response.status_code == 200
        result = response.json()
        assert result.pop("message")
        assert result == {
            "accepted": True,
            "canonical_url": f"{URL}/v1/messages",
            "reason": "ok",
            "auth_style": "bearer",
            "is_anthropic": False,
        }

    @pytest.mark.parametrize(
        ("url", "auth_style", "is_anthropic"),
        [
            (f"https://{OTHER_HOST}/anthropic", "x_api_key", False),
            ("https://api.anthropic.com", "x_api_key", True),
            ("", "x_api_key", True),
        ],
    )
    async def test_shows_the_auth_style_and_whether_the_host_is_anthropics(
        self, admin: Tenant, url: str, auth_style: str, *, is_anthropic: bool
    ) -> None:
        result = (await check(admin, url)).json()

        assert result["accepted"]
        assert (result["auth_style"], result["is_anthropic"]) == (auth_style, is_anthropic)

    async def test_rejects_a_url_with_a_key(self, admin: Tenant) -> None:
        key = make_key()
        for url in (f"{URL}/{key}", f"{URL}/{key.replace('-', '%2D')}", f"{URL}/{key.upper()}"):
            response = await check(admin, url)

            result = response.json()
            assert (result["accepted"], result["reason"]) == (False, "looks_like_key")
            assert key[20:] not in response.text
            assert (await admin.create(base_url=url)).json()["code"] == "looks_like_key"

    @pytest.mark.parametrize("url", ["", None])
    async def test_empty_url_means_the_default_endpoint(
        self, admin: Tenant, endpoint_service: CustomEndpointService, url: Any
    ) -> None:
        result = (await check(admin, url)).json()

        assert (result["accepted"], result["reason"]) == (True, "ok")
        assert result["canonical_url"] == "https://api.anthropic.com/v1/messages"
        assert endpoint_service.resolver.queries == []

    @pytest.mark.parametrize("url", ["https://a\ud800.com", f"https://{'a' * 20_000}.com"])
    async def test_reports_unusual_strings_as_malformed(self, admin: Tenant, url: str) -> None:
        body = json.dumps({"url": url})

        response = await admin.post(PATH, content=body, headers={"Content-Type": "application/json"})

        assert (response.status_code, response.json()["reason"]) == (200, "malformed")

    @pytest.mark.parametrize(("url", "reason"), (REFUSED_BY_POLICY | REFUSED_BY_DNS).items())
    async def test_reports_a_rejected_url_without_its_addresses(
        self, admin: Tenant, url: str, reason: str
    ) -> None:
        response = await check(admin, url)

        assert response.status_code == 200
        result = response.json()
        assert (result["accepted"], result["canonical_url"], result["reason"]) == (False, None, reason)
        assert (result["auth_style"], result["is_anthropic"]) == (None, None)
        assert result["message"]
        assert not [part for part in ("hunter2", "10.1.2.3", "127.0.0.1") if part in response.text]

    async def test_failed_dns_lookup_is_not_an_error(self, admin: Tenant) -> None:
        response = await check(admin, f"https://{SILENT_HOST}")

        assert response.status_code == 200
        result = response.json()
        assert (result["accepted"], result["canonical_url"]) == (False, None)
        assert result["reason"] == "dns_unavailable"

    async def test_reports_the_same_as_saving(self, admin: Tenant) -> None:
        for url, reason in (REFUSED_BY_POLICY | REFUSED_BY_DNS).items():
            (error,) = (await admin.create(base_url=url)).json()["errors"]
            result = (await check(admin, url)).json()
            assert (error["code"], error["message"]) == (reason, result["message"])

    @pytest.mark.usefixtures("uncalled_provider")
    async def test_sends_nothing_and_saves_nothing(
        self, admin: Tenant, endpoint_service: CustomEndpointService, superuser: AsyncEngine
    ) -> None:
        await check(admin, URL)

        assert endpoint_service.backend.connected_hosts == []
        for table in ("provider_credential", "audit_event", "job_queue"):
            rows = await fetch(
                superuser, f"SELECT 1 FROM {table} WHERE organization_id = :o", o=admin.organization
            )
            assert rows == []


class TestRequest:
    @pytest.mark.parametrize(
        ("body", "code"),
        [
            ({}, "validation_failed"),
            ({"url": 1}, "validation_failed"),
            ({"url": URL, "host": "x"}, "unknown_field"),
        ],
    )
    async def test_rejects_invalid_requests(self, admin: Tenant, body: dict[str, Any], code: str) -> None:
        response = await admin.post(PATH, json=body)

        assert (response.status_code, response.json()["code"]) == (422, code)

    async def test_requires_a_token(self, endpoint_service: CustomEndpointService) -> None:
        assert (await endpoint_service.http.post(PATH, json={"url": URL})).status_code == 401

    @pytest.mark.parametrize("role", ["billing-viewer", "service"])
    async def test_requires_the_scope(
        self, endpoint_service: CustomEndpointService, make_token: MakeToken, role: str
    ) -> None:
        organization = "*" if role == "service" else "org_url_viewer"
        viewer = Tenant(
            http=endpoint_service.http, organization=organization, token=make_token(role, organization)
        )

        response = await check(viewer, URL)

        assert (response.status_code, response.json()["code"]) == (403, "insufficient_scope")

    async def test_accepts_an_internal_service_with_the_scope(
        self, endpoint_service: CustomEndpointService, make_token: MakeToken, superuser: AsyncEngine
    ) -> None:
        token = make_token("service", scopes={Scope.CREDENTIALS_WRITE})
        await change(superuser, "DELETE FROM public.rate_counter WHERE organization_id = '_services'")

        response = await check(Tenant(http=endpoint_service.http, organization="*", token=token), URL)

        assert (response.status_code, response.json()["accepted"]) == (200, True)
        counted = "SELECT sum(requests) AS n FROM public.rate_counter WHERE organization_id = '_services'"
        assert (await fetch(superuser, counted))[0]["n"] == 1


class TestRateLimit:
    def test_default_is_30_per_minute(self, settings: Settings) -> None:
        assert settings.rate_limits.url_checks == PER_MINUTE

    async def test_accepts_30_requests_per_minute(self, admin: Tenant) -> None:
        responses = [(await check(admin, "http://x")).status_code for _ in range(2 * PER_MINUTE + 1)]

        assert responses[:PER_MINUTE] == [200] * PER_MINUTE
        assert 429 in responses[PER_MINUTE:]  # at most one new minute can start during the loop

    async def test_rejection_has_retry_after_and_makes_no_dns_query(
        self, admin: Tenant, endpoint_service: CustomEndpointService, superuser: AsyncEngine
    ) -> None:
        await exhaust_rate_limit(superuser, admin.organization)

        response = await check(admin, URL)

        assert (response.status_code, response.json()["code"]) == (429, "rate_limited")
        assert 1 <= int(response.headers["Retry-After"]) <= 60
        assert endpoint_service.resolver.queries == []

    async def test_does_not_limit_other_organizations_or_saving(
        self,
        admin: Tenant,
        endpoint_service: CustomEndpointService,
        make_tenant: MakeTenant,
        superuser: AsyncEngine,
    ) -> None:
        await exhaust_rate_limit(superuser, admin.organization)
        other = replace(make_tenant(), http=endpoint_service.http)

        assert (await check(other, URL)).status_code == 200
        response = await admin.create(base_url="http://x")
        assert response.status_code == 422
