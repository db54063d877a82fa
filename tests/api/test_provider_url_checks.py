"""The check behind the form's URL field: what saving would say, and nothing more."""

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
from app.settings.environment import Settings
from tests.api.far_provider import REFUSED_BY_DNS, REFUSED_BY_POLICY, SILENT_HOST, URL, FarWorld, far_world
from tests.conftest import MakeTenant, MakeToken, Tenant
from tests.fake_anthropic import Served
from tests.rows import change, fetch

PATH = "/v1/provider-url-checks"
PER_MINUTE = 30


@pytest.fixture
async def world(services: Services, database: Database, provider: Served) -> AsyncIterator[FarWorld]:
    async with far_world(services, database, provider, url_checks_per_minute=PER_MINUTE) as world:
        yield world


@pytest.fixture
def admin(tenant: Tenant, world: FarWorld) -> Tenant:
    return replace(tenant, http=world.http)


async def check(tenant: Tenant, url: Any) -> httpx.Response:
    return await tenant.post(PATH, json={"url": url})


async def use_up(owner: AsyncEngine, organization: str) -> None:
    """This minute and the next, should this one end meanwhile."""
    minute = now().replace(second=0, microsecond=0)
    for start in (minute, minute + timedelta(minutes=1)):
        await change(
            owner,
            "INSERT INTO rate_counter VALUES (:organization, 'url_checks', :start, :requests)",
            organization=organization,
            start=start,
            requests=PER_MINUTE,
        )


class TestVerdict:
    @pytest.mark.parametrize("url", [URL, f"{URL}/v1", f"{URL}:443/v1/messages/", URL.upper()])
    async def test_of_a_url_that_can_be_saved_has_its_one_spelling(self, admin: Tenant, url: str) -> None:
        response = await check(admin, url)

        assert response.status_code == 200
        answer = response.json()
        assert answer.pop("message")
        assert answer == {"accepted": True, "canonical_url": f"{URL}/v1/messages", "reason": "ok"}

    @pytest.mark.parametrize("url", ["", None])
    async def test_of_no_url_is_the_default_endpoint(self, admin: Tenant, world: FarWorld, url: Any) -> None:
        answer = (await check(admin, url)).json()

        assert (answer["accepted"], answer["reason"]) == (True, "ok")
        assert answer["canonical_url"] == "https://api.anthropic.com/v1/messages"
        assert world.resolver.asked == []

    @pytest.mark.parametrize("url", ["https://a\ud800.com", f"https://{'a' * 20_000}.com"])
    async def test_of_what_no_text_should_be_is_an_answer(self, admin: Tenant, url: str) -> None:
        body = json.dumps({"url": url})

        response = await admin.post(PATH, content=body, headers={"Content-Type": "application/json"})

        assert (response.status_code, response.json()["reason"]) == (200, "malformed")

    @pytest.mark.parametrize(("url", "reason"), (REFUSED_BY_POLICY | REFUSED_BY_DNS).items())
    async def test_of_a_refused_url_is_an_answer_and_names_no_address(
        self, admin: Tenant, url: str, reason: str
    ) -> None:
        response = await check(admin, url)

        assert response.status_code == 200
        answer = response.json()
        assert (answer["accepted"], answer["canonical_url"], answer["reason"]) == (False, None, reason)
        assert answer["message"]
        assert not [part for part in ("hunter2", "10.1.2.3", "127.0.0.1") if part in response.text]

    async def test_of_an_unanswered_look_up_is_no_error(self, admin: Tenant) -> None:
        response = await check(admin, f"https://{SILENT_HOST}")

        assert response.status_code == 200
        answer = response.json()
        assert (answer["accepted"], answer["canonical_url"]) == (False, None)
        assert answer["reason"] == "dns_unavailable"

    async def test_is_what_saving_says(self, admin: Tenant) -> None:
        for url, reason in (REFUSED_BY_POLICY | REFUSED_BY_DNS).items():
            (refusal,) = (await admin.create(base_url=url)).json()["errors"]
            answer = (await check(admin, url)).json()
            assert (refusal["code"], refusal["message"]) == (reason, answer["message"])

    @pytest.mark.usefixtures("unasked_provider")
    async def test_reaches_nobody_and_keeps_nothing(
        self, admin: Tenant, world: FarWorld, owner: AsyncEngine
    ) -> None:
        await check(admin, URL)

        assert world.detour.dialled == []
        for table in ("provider_credential", "audit_event", "job_queue"):
            rows = await fetch(
                owner, f"SELECT 1 FROM {table} WHERE organization_id = :o", o=admin.organization
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
    async def test_that_is_none_is_refused(self, admin: Tenant, body: dict[str, Any], code: str) -> None:
        response = await admin.post(PATH, json=body)

        assert (response.status_code, response.json()["code"]) == (422, code)

    async def test_needs_a_token(self, world: FarWorld) -> None:
        assert (await world.http.post(PATH, json={"url": URL})).status_code == 401

    @pytest.mark.parametrize("role", ["billing-viewer", "service"])
    async def test_needs_the_scope(self, world: FarWorld, make_token: MakeToken, role: str) -> None:
        organization = "*" if role == "service" else "org_url_viewer"
        viewer = Tenant(http=world.http, organization=organization, token=make_token(role, organization))

        response = await check(viewer, URL)

        assert (response.status_code, response.json()["code"]) == (403, "insufficient_scope")

    async def test_of_an_internal_service_with_the_scope_is_answered(
        self, world: FarWorld, make_token: MakeToken, owner: AsyncEngine
    ) -> None:
        token = make_token("service", scopes={Scope.CREDENTIALS_WRITE})
        await change(owner, "DELETE FROM rate_counter WHERE organization_id = '_services'")

        response = await check(Tenant(http=world.http, organization="*", token=token), URL)

        assert (response.status_code, response.json()["accepted"]) == (200, True)
        counted = "SELECT sum(requests) AS n FROM rate_counter WHERE organization_id = '_services'"
        assert (await fetch(owner, counted))[0]["n"] == 1


class TestRateLimit:
    def test_is_thirty_a_minute_unless_set(self, settings: Settings) -> None:
        assert settings.rate_limits.url_checks == PER_MINUTE

    async def test_lets_thirty_through_and_no_more(self, admin: Tenant) -> None:
        answers = [(await check(admin, "http://x")).status_code for _ in range(2 * PER_MINUTE + 1)]

        assert answers[:PER_MINUTE] == [200] * PER_MINUTE
        assert 429 in answers[PER_MINUTE:]  # a new minute may have begun in between, but not two

    async def test_refusal_says_when_to_come_back_and_looks_nothing_up(
        self, admin: Tenant, world: FarWorld, owner: AsyncEngine
    ) -> None:
        await use_up(owner, admin.organization)

        response = await check(admin, URL)

        assert (response.status_code, response.json()["code"]) == (429, "rate_limited")
        assert 1 <= int(response.headers["Retry-After"]) <= 60
        assert world.resolver.asked == []

    async def test_holds_up_neither_others_nor_saving(
        self, admin: Tenant, world: FarWorld, make_tenant: MakeTenant, owner: AsyncEngine
    ) -> None:
        await use_up(owner, admin.organization)
        other = replace(make_tenant(), http=world.http)

        assert (await check(other, URL)).status_code == 200
        refused = await admin.create(base_url="http://x")
        assert refused.status_code == 422
