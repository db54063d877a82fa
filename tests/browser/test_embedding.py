"""The page inside the application of a customer: as an element, and in an iframe with a MessagePort."""

import asyncio
from collections.abc import Callable
from typing import Any

from playwright.async_api import expect

from app.billing.month import BillingMonth
from app.core.clock import now
from tests.support.page.browser import Visit
from tests.support.page.site import Host
from tests.support.polling import resolved, until
from tests.support.tenant import Tenant

STRICT = (
    "default-src 'none'; script-src 'self' {page}; connect-src {page}; style-src {page}; frame-src {page};"
    " base-uri 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)


def publish(host: Host, page: str, *, body: str, script: str) -> None:
    policy = STRICT.format(page=page)
    html = f'<!doctype html><html lang="en"><title>App</title><script type="module" src="/app.js"></script>{body}'
    host.documents["/"] = ("text/html; charset=utf-8", html, policy)
    host.documents["/app.js"] = ("text/javascript", script, policy)


class TestElement:
    async def test_works_in_a_host_with_a_strict_policy(
        self, host: tuple[Host, str], tenant: Tenant, visits: Callable[..., Any]
    ) -> None:
        visit: Visit = await visits()
        publish(
            host[0],
            visit.origin,
            body=f'<pharaoh-byok organization="{tenant.organization}"></pharaoh-byok>',
            script=f"import '{visit.origin}/billing/element.js';"
            f" document.querySelector('pharaoh-byok').getToken = async () => '{tenant.token}';",
        )
        await visit.page.goto(host[1])

        await expect(visit.page.get_by_text("Managed. Pharaoh pays the provider")).to_be_visible()
        assert visit.messages == []
        assert {it.url.partition("://")[2].partition("/")[0] for it in visit.requests} == {
            host[1].partition("://")[2],
            visit.origin.partition("://")[2],
        }

    async def test_asks_again_for_a_token_that_is_refused(
        self, host: tuple[Host, str], tenant: Tenant, visits: Callable[..., Any]
    ) -> None:
        visit: Visit = await visits()
        publish(
            host[0],
            visit.origin,
            body=f'<pharaoh-byok organization="{tenant.organization}"></pharaoh-byok>',
            script=f"import '{visit.origin}/billing/element.js'; let token = 'a.b.c';"
            " document.querySelector('pharaoh-byok').getToken = async ({ force }) =>"
            f" {{ if (force) token = '{tenant.token}'; return token }};",
        )
        await visit.page.goto(host[1])

        await expect(visit.page.get_by_text("Managed. Pharaoh pays the provider")).to_be_visible()

    async def test_fetches_nothing_from_the_api_before_there_is_a_token(
        self, host: tuple[Host, str], visits: Callable[..., Any]
    ) -> None:
        visit: Visit = await visits()
        publish(
            host[0],
            visit.origin,
            body="<pharaoh-byok></pharaoh-byok>",
            script=f"import '{visit.origin}/billing/element.js';",
        )
        await visit.page.goto(host[1])

        await expect(visit.page.get_by_text("Waiting for the application to sign you in.")).to_be_visible()
        assert [it.url for it in visit.requests if "/v1/" in it.url] == []

    async def test_is_refused_in_an_origin_that_is_not_allowed(
        self, host: tuple[Host, str], visits: Callable[..., Any]
    ) -> None:
        visit: Visit = await visits()
        publish(
            host[0],
            visit.origin,
            body="<pharaoh-byok></pharaoh-byok>",
            script=f"import '{visit.origin}/billing/element.js';",
        )
        foreign = host[1].replace("127.0.0.1", "localhost")
        await visit.page.goto(foreign)

        await expect(visit.page.locator("pharaoh-byok")).to_have_count(1)
        await until(lambda: resolved(visit.console), lambda it: any("CORS" in line for line in it))
        assert await visit.page.evaluate("customElements.get('pharaoh-byok') === undefined")


class TestDownload:
    """A file comes from another origin than the host's page, so the browser opens its link in a new window."""

    async def test_from_an_element_saves_the_file_and_leaves_the_host_as_it_is(
        self, host: tuple[Host, str], tenant: Tenant, visits: Callable[..., Any]
    ) -> None:
        visit: Visit = await visits()
        publish(
            host[0],
            visit.origin,
            body=f'<pharaoh-byok organization="{tenant.organization}"></pharaoh-byok>',
            script=f"import '{visit.origin}/billing/element.js';"
            f" document.querySelector('pharaoh-byok').getToken = async () => '{tenant.token}';",
        )
        await visit.page.goto(host[1])
        await visit.section("Statements")
        saved: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        note = saved.set_result
        visit.context.on(
            "page", lambda page: page.on("download", lambda download: note(download.suggested_filename))
        )
        visit.page.on("download", lambda download: note(download.suggested_filename))
        await visit.button("Download as CSV").click()

        assert await asyncio.wait_for(saved, 30) == f"{tenant.organization}-{BillingMonth.of(now())}.csv"
        assert visit.page.url.rstrip("/") == host[1]

    async def test_from_a_frame_saves_the_file(
        self, host: tuple[Host, str], tenant: Tenant, visits: Callable[..., Any]
    ) -> None:
        visit: Visit = await visits()
        publish(
            host[0],
            visit.origin,
            body=f'<iframe title="Billing" src="{visit.origin}/billing" width="800" height="600"></iframe>',
            script=TestFrame.RESPOND.format(page=visit.origin, token=tenant.token),
        )
        await visit.page.goto(host[1])
        frame = visit.page.frame_locator("iframe")
        await frame.get_by_role("button", name="Statements").click()
        async with visit.page.expect_download() as started:
            await frame.get_by_role("button", name="Download as CSV").click()

        assert (await started.value).suggested_filename.startswith(tenant.organization)


class TestFrame:
    RESPOND = (
        "addEventListener('message', (event) => {{ if (event.origin !== '{page}' || event.data?.type !== 'byok:token') return;"
        " event.ports[0].postMessage('{token}'); }});"
    )

    async def test_gets_its_token_from_its_parent(
        self, host: tuple[Host, str], tenant: Tenant, visits: Callable[..., Any]
    ) -> None:
        visit: Visit = await visits()
        publish(
            host[0],
            visit.origin,
            body=f'<iframe title="Billing" src="{visit.origin}/billing" width="800" height="600"></iframe>',
            script=self.RESPOND.format(page=visit.origin, token=tenant.token),
        )
        await visit.page.goto(host[1])
        frame = visit.page.frame_locator("iframe")

        await expect(frame.get_by_text("Managed. Pharaoh pays the provider")).to_be_visible()
        await frame.get_by_role("button", name="Use your own key").click()
        await frame.get_by_label("Anthropic API key").fill("sk-ant-api03-typed-in-the-frame")
        reached = await visit.page.evaluate(
            "() => { try { return document.querySelector('iframe').contentDocument?.body.innerText ?? null }"
            " catch (error) { return error.name } }"
        )
        assert reached is None  # scripts of the host do not reach the field

    async def test_is_not_shown_by_a_foreign_parent(
        self, host: tuple[Host, str], tenant: Tenant, visits: Callable[..., Any]
    ) -> None:
        visit: Visit = await visits()
        publish(
            host[0],
            visit.origin,
            body=f'<iframe title="Billing" src="{visit.origin}/billing"></iframe>',
            script=self.RESPOND.format(page=visit.origin, token=tenant.token),
        )
        await visit.page.goto(host[1].replace("127.0.0.1", "localhost"))

        await expect(visit.page.locator("iframe")).to_have_count(1)
        await until(lambda: resolved(visit.console), lambda it: any("frame-ancestors" in line for line in it))
        assert [it.url for it in visit.requests if "/v1/" in it.url] == []

    async def test_whose_parent_has_no_token_is_signed_out(
        self, host: tuple[Host, str], visits: Callable[..., Any]
    ) -> None:
        visit: Visit = await visits()
        publish(
            host[0],
            visit.origin,
            body=f'<iframe title="Billing" src="{visit.origin}/billing" width="800" height="600"></iframe>',
            script=self.RESPOND.format(page=visit.origin, token=""),
        )
        await visit.page.goto(host[1])

        await expect(
            visit.page.frame_locator("iframe").get_by_text("Signed out. Sign in again").first
        ).to_be_visible()
        assert [it.url for it in visit.requests if "/v1/" in it.url] == []
