"""Sign-in on the page itself: a code of `byok page`, a pasted token, and the identity provider in a popup."""

from collections.abc import AsyncIterator, Callable
from contextlib import nullcontext
from typing import Any

import pytest
from playwright.async_api import Browser, expect

from app.core.services import Services
from app.main import create_app
from app.page.document import PageConfig
from app.page.router import BillingPage
from tests.support.page.browser import Visit, visiting
from tests.support.page.identity_provider import IdentityProvider
from tests.support.page.site import listen, origin_of, serving
from tests.support.tenant import Tenant


@pytest.fixture
async def provider_and_origin(
    services: Services, tenant: Tenant
) -> AsyncIterator[tuple[IdentityProvider, str]]:
    """The page as in production: it signs in at an identity provider."""
    provider, its_listener, listener = IdentityProvider(tenant.token), listen(), listen()
    provider.origin = origin_of(its_listener)
    page = BillingPage(config=PageConfig(issuer=provider.origin, client_id="byok-page"))
    async with (
        serving(provider, its_listener, lifespan=False),
        serving(create_app(nullcontext(services), page=page), listener) as origin,
    ):
        yield provider, origin


class TestCode:
    async def test_works_once(self, visits: Callable[..., Any], make_code: Callable[..., str]) -> None:
        code = make_code()
        first: Visit = await visits()
        await first.open(code)
        second: Visit = await visits()

        await second.page.goto(f"{second.origin}/billing#code={code}")

        await expect(second.page.get_by_role("alert")).to_contain_text("sign_in_refused")
        assert [it.url for it in second.requests if "/v1/" in it.url] == []


class TestPastedToken:
    async def test_signs_in_and_leaves_the_field(self, visits: Callable[..., Any], tenant: Tenant) -> None:
        visit: Visit = await visits()
        await visit.page.goto(f"{visit.origin}/billing")
        await visit.field("Or paste a token").fill(tenant.token)
        await visit.button("Sign in with it").click()

        await expect(visit.page.get_by_text("Managed. Pharaoh pays the provider")).to_be_visible()
        assert tenant.token not in await visit.page.evaluate("document.documentElement.outerHTML")


class TestPopup:
    async def test_signs_in_with_a_code_and_a_verifier(
        self, browser: Browser, provider_and_origin: tuple[IdentityProvider, str]
    ) -> None:
        provider, origin = provider_and_origin
        async with visiting(browser, origin) as visit:
            await visit.page.goto(f"{origin}/billing")
            await visit.button("Sign in").click()

            await expect(visit.page.get_by_text("Managed. Pharaoh pays the provider")).to_be_visible()
            (query,) = provider.queries
            assert (query["client_id"], query["code_challenge_method"]) == (["byok-page"], ["S256"])
            assert query["redirect_uri"] == [f"{origin}/billing/callback"]
            assert provider.refused == []
            assert await visit.page.evaluate(
                "[localStorage.length, sessionStorage.length, document.cookie]"
            ) == [0, 0, ""]
            assert provider.token not in visit.page.url
            await expect(visit.page.get_by_label("Or paste a token")).to_have_count(0)

    async def test_that_is_blocked_says_so(
        self, browser: Browser, provider_and_origin: tuple[IdentityProvider, str]
    ) -> None:
        async with visiting(browser, provider_and_origin[1]) as visit:
            await visit.page.goto(f"{visit.origin}/billing")
            await visit.page.evaluate("() => { window.open = () => null }")
            await visit.button("Sign in").click()

            await expect(visit.page.get_by_role("alert")).to_contain_text("popup_blocked")

    async def test_whose_token_is_refused_is_tried_again(
        self, browser: Browser, provider_and_origin: tuple[IdentityProvider, str]
    ) -> None:
        provider, origin = provider_and_origin
        async with visiting(browser, origin) as visit:
            await visit.page.route(f"{provider.origin}/token", lambda route: route.abort())
            await visit.page.goto(f"{origin}/billing")
            await visit.button("Sign in").click()
            await expect(visit.page.get_by_role("alert")).to_contain_text("sign_in_failed")
            await visit.page.unroute(f"{provider.origin}/token")
            await visit.button("Sign in").click()

            await expect(visit.page.get_by_text("Managed. Pharaoh pays the provider")).to_be_visible()

    async def test_to_an_address_that_is_a_script_is_refused(
        self, browser: Browser, provider_and_origin: tuple[IdentityProvider, str]
    ) -> None:
        provider, origin = provider_and_origin
        found = {
            "issuer": provider.origin,
            "authorization_endpoint": "javascript:window.opener.ran=1",
            "token_endpoint": f"{provider.origin}/token",
        }
        anywhere = {"access-control-allow-origin": "*"}
        async with visiting(browser, origin) as visit:
            await visit.page.route(
                "**/.well-known/*", lambda route: route.fulfill(json=found, headers=anywhere)
            )
            await visit.page.goto(f"{origin}/billing")
            await visit.button("Sign in").click()

            await expect(visit.page.get_by_role("alert")).to_contain_text("sign_in_failed")
            assert await visit.page.evaluate("window.ran") is None
