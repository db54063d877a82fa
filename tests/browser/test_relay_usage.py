"""The seven steps by keyboard, then a call through the relay: the chart shows it after the next refresh."""

import httpx
from playwright.async_api import expect

from tests.support.page.browser import Visit, save_by_keyboard
from tests.support.polling import until
from tests.support.provider.fake_anthropic import FakeAnthropic, make_key
from tests.support.requests.rotation import get_json
from tests.support.tenant import MakeToken, Tenant

CALL = {
    "model": "claude-haiku-5-5",
    "max_tokens": 100,
    "messages": [{"role": "user", "content": "Say hello"}],
}


class TestRelayedUsage:
    async def test_is_in_the_chart_after_a_refresh(
        self,
        visit: Visit,
        tenant: Tenant,
        make_token: MakeToken,
        fake_anthropic: FakeAnthropic,
        client: httpx.AsyncClient,
    ) -> None:
        key = make_key()
        await save_by_keyboard(visit, key)
        await expect(visit.page.get_by_text("Valid, and in use")).to_be_visible()
        await visit.section("Usage")
        await expect(visit.main.get_by_text("There is no usage in this range.")).to_be_visible()

        token = make_token(organization=tenant.organization, scopes={"relay:messages"})
        relayed = await client.post("/relay/anthropic/v1/messages", json=CALL, headers={"x-api-key": token})
        assert relayed.status_code == 200, relayed.text
        assert [it.path for it in fake_anthropic.requests_of(key)][-1] == "/v1/messages"
        events = await until(
            lambda: get_json(tenant, f"{tenant.path}/usage-events"), lambda it: bool(it["data"])
        )
        await visit.refresh()

        await expect(visit.page.locator(".chart rect[data-series='BYO key']")).to_have_count(1)
        await visit.field("Measure").select_option("requests")
        await expect(visit.page.locator(".reading")).to_contain_text("(so far): BYO key 1 request")
        (row,) = events["data"]
        assert (row["usage_mode"], row["outcome"]) == ("byo", "succeeded")
