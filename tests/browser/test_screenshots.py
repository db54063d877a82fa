"""The pictures of the documentation. With BYOK_TEST_SCREENSHOTS=1 they are written to docs/how-to/images."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import expect

from tests.support.documentation import ROOT
from tests.support.page.browser import Visit
from tests.support.provider.fake_anthropic import make_key
from tests.support.requests.spend_limits import MONTHLY
from tests.support.requests.usage_events import Ledger, event, instant
from tests.support.requests.usage_mode import switch_mode
from tests.support.tenant import MakeTenant, Tenant

TOKENS = {"input_tokens": 900_000, "output_tokens": 80_000}
ROOM = {"amount": {"amount": "100", "currency": "USD"}, "scope": {"usage_mode": "any"}}
PICTURES = ("billing-overview", "billing-key", "billing-usage")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    return ROOT / "docs" / "how-to" / "images" if os.environ.get("BYOK_TEST_SCREENSHOTS") else tmp_path


@pytest.fixture
async def organization(tenant: Tenant, make_tenant: MakeTenant) -> Tenant:
    """Usage of two weeks, managed and then BYO, and a limit."""
    service = make_tenant("service", "*")
    to_ledger = Tenant(http=service.http, organization=tenant.organization, token=service.token)
    ledger = Ledger(tenant=tenant, service=to_ledger)
    features = ("triage", "patching", "chat")
    await ledger.accepted(
        *(
            event(usage=TOKENS, feature=features[it % 3], started_at=instant(hours=it))
            for it in range(1, 14 * 24, 7)
        )
    )
    created = await tenant.created()
    await switch_mode(tenant, {"mode": "byo", "credential_id": created["id"]})
    await ledger.accepted(
        *(
            event(usage=TOKENS, feature="chat", session_id="s1", started_at=instant(seconds=-2))
            for _ in range(9)
        )
    )
    await tenant.post(f"{tenant.path}/spend-limits", json=MONTHLY | ROOM)
    return tenant


class TestPictures:
    @pytest.mark.usefixtures("organization")
    @pytest.mark.parametrize("scheme", ["light", "dark"])
    async def test_show_the_page(
        self,
        visits: Callable[..., Any],
        make_code: Callable[..., str],
        pictures: Path,
        scheme: str,
    ) -> None:
        visit: Visit = await visits(color_scheme=scheme, viewport={"width": 1100, "height": 760})
        await visit.open(make_code())
        await expect(visit.page.locator("[aria-busy=true]")).to_have_count(0)
        await visit.page.screenshot(path=pictures / f"billing-overview-{scheme}.png")
        await visit.section("Key")
        await visit.button("Add a key").click()
        await visit.field("Anthropic API key").fill(make_key())
        await visit.field("Label").fill("Acme staging")
        await visit.page.screenshot(path=pictures / f"billing-key-{scheme}.png")
        await visit.section("Usage")
        await expect(visit.page.locator("[aria-busy=true]")).to_have_count(0)
        await visit.page.screenshot(path=pictures / f"billing-usage-{scheme}.png", full_page=True)

        assert all((pictures / f"{name}-{scheme}.png").stat().st_size > 10_000 for name in PICTURES)
