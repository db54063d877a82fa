"""The cards of saved keys: rotation, leak, label, removal, validation, and what a viewer sees of them."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from playwright.async_api import Locator, expect

from tests.support.page.browser import Visit, paste_key
from tests.support.provider.fake_anthropic import FakeAnthropic, make_key
from tests.support.requests.rotation import get_json, rotate_credential
from tests.support.requests.usage_mode import future_timestamp, switch_mode
from tests.support.tenant import Tenant

Visits = Callable[..., Any]
Code = Callable[..., str]


@pytest.fixture
async def keys(admin: Visit) -> Visit:
    """An admin who looks at the only key, which is in use."""
    await admin.section("Key")
    return admin


def in_dialog(visit: Visit, button: str) -> Locator:
    return visit.page.get_by_role("dialog").get_by_role("button", name=button, exact=True)


async def rotate(visit: Visit, key: str) -> None:
    await visit.button("Rotate").click()
    await paste_key(visit, key)
    await in_dialog(visit, "Rotate").click()


def path_of(tenant: Tenant, credential: dict[str, Any]) -> str:
    return f"{tenant.credentials}/{credential['id']}"


class TestRotation:
    async def test_with_a_valid_key_takes_over_and_names_the_old_one(
        self, keys: Visit, tenant: Tenant, credential: dict[str, Any]
    ) -> None:
        await rotate(keys, make_key())

        result = keys.page.get_by_role("dialog").get_by_role("status")
        await expect(result).to_contain_text(re.compile(r"The new key \S+ is in use"))
        found = await get_json(tenant, path_of(tenant, credential))
        assert found["key_version"] == 2
        await expect(keys.main.locator("dl").get_by_text(found["key_hint"])).to_be_visible()
        await expect(result).to_contain_text(f"Now revoke {credential['key_hint']}")
        await in_dialog(keys, "Done").click()
        await expect(keys.button("Rotate")).to_be_focused()

    async def test_that_is_rejected_leaves_the_old_key(
        self, keys: Visit, tenant: Tenant, credential: dict[str, Any]
    ) -> None:
        await rotate(keys, make_key("invalid"))

        await expect(keys.page.get_by_text("The old key is untouched.")).to_be_visible()
        assert (await get_json(tenant, path_of(tenant, credential)))["key_version"] == 1

    async def test_that_is_pending_is_found_after_a_reload_and_cancelled(
        self, tenant: Tenant, credential: dict[str, Any], visits: Visits, make_code: Code
    ) -> None:
        await rotate_credential(tenant, path_of(tenant, credential), "overloaded")
        visit = await visits()
        await visit.open(make_code())
        await visit.section("Key")

        await expect(visit.main.get_by_text("the provider is overloaded").first).to_be_visible()
        await visit.button("Cancel this rotation").click()

        await expect(visit.main.get_by_text("Cancelled. The new key is destroyed.")).to_be_focused()
        assert (await get_json(tenant, path_of(tenant, credential)))["rotation"] is None

    async def test_is_pending_while_the_provider_is_overloaded(self, keys: Visit) -> None:
        await rotate(keys, make_key("overloaded"))

        await expect(keys.page.get_by_text("The old key is in use.").first).to_be_visible()

    async def test_is_rolled_back(
        self, tenant: Tenant, credential: dict[str, Any], visits: Visits, make_code: Code
    ) -> None:
        await rotate_credential(tenant, path_of(tenant, credential))
        visit = await visits()
        await visit.open(make_code())
        await visit.section("Key")

        await visit.button("Roll back").click()

        await expect(visit.main.get_by_text("the replaced key (version 2)").first).to_be_visible()
        assert (await get_json(tenant, path_of(tenant, credential)))["key_version"] == 1

    async def test_to_another_host_needs_a_tick(self, keys: Visit) -> None:
        await keys.button("Rotate").click()
        await in_dialog(keys, "Rotate").click()
        await expect(keys.page.get_by_text("Paste the key.")).to_be_visible()
        await paste_key(keys, make_key())
        await keys.field("Destination").select_option("other")
        await keys.field("Provider URL").fill("https://gw.example.com")
        await keys.field("The new key takes over").select_option("immediately")
        await keys.field("The old key").select_option("immediately")
        await in_dialog(keys, "Rotate").click()

        await expect(keys.page.get_by_text("Tick the box to send")).to_be_visible()
        assert [it for it in keys.requests if it.url.endswith("/rotations")] == []
        await keys.field("Send this Anthropic key to gw.example.com").check()
        await keys.field("Destination").select_option("anthropic")
        await in_dialog(keys, "Rotate").click()
        await expect(keys.page.get_by_text("The old key is destroyed here.")).to_be_visible()

    async def test_of_a_key_that_is_saved_already_keeps_what_was_entered(
        self, keys: Visit, tenant: Tenant
    ) -> None:
        other = make_key()
        await tenant.post(tenant.credentials, json={"label": "Other", "api_key": other})
        await rotate(keys, other)

        await expect(keys.page.get_by_role("alert")).to_contain_text("duplicate_key")
        await expect(keys.field("Anthropic API key")).to_have_value(other)


class TestLeaked:
    async def test_key_is_replaced_and_destroyed_at_once(
        self, keys: Visit, tenant: Tenant, credential: dict[str, Any]
    ) -> None:
        await keys.button("It leaked").click()
        await keys.button("I have a new key").click()
        await paste_key(keys, make_key())
        await in_dialog(keys, "Rotate").click()

        await expect(keys.page.get_by_text("The old key is destroyed here.")).to_be_visible()
        versions = (await get_json(tenant, f"{path_of(tenant, credential)}/versions"))["data"]
        assert {it["key_version"]: it["state"] for it in versions} == {1: "destroyed", 2: "active"}

    async def test_key_without_a_new_one_is_destroyed_and_the_receipt_stays(
        self, keys: Visit, tenant: Tenant, credential: dict[str, Any]
    ) -> None:
        await keys.button("It leaked").click()
        await keys.button("Destroy it").click()
        await expect(keys.button("Destroy and stop work")).to_be_disabled()
        await keys.field("Type the label").fill(credential["label"])
        await keys.button("Destroy and stop work").click()

        await expect(keys.page.get_by_text("No key is saved.")).to_have_count(1)
        await expect(keys.page.get_by_text("Versions destroyed: 1.")).to_be_visible()
        readiness = await get_json(tenant, f"{tenant.path}/readiness")
        assert readiness["blockers"] == ["credential_deleted"]
        await in_dialog(keys, "Close").click()
        await expect(keys.page.get_by_role("heading", name="Key", exact=True)).to_be_focused()

    async def test_key_is_disabled_and_its_usage_and_activity_are_one_click_away(
        self, keys: Visit, tenant: Tenant, credential: dict[str, Any]
    ) -> None:
        await keys.button("It leaked").click()
        await in_dialog(keys, "Disable it").click()
        await expect(keys.page.get_by_text("Disabled. Work with this key is stopped.")).to_be_focused()
        assert (await get_json(tenant, path_of(tenant, credential)))["state"] == "disabled"

        await in_dialog(keys, "Usage of this key").click()

        await expect(
            keys.main.get_by_role("button", name="Key version: 1, remove this filter")
        ).to_be_visible()
        await keys.main.get_by_role("button", name="Key version: 1, remove this filter").click()
        await expect(
            keys.main.get_by_role("button", name="Key version: 1, remove this filter")
        ).to_have_count(0)
        await keys.section("Key")
        await keys.button("It leaked").click()
        await in_dialog(keys, "Activity of this key").click()
        await expect(keys.field("Key")).to_have_value(credential["id"])


class TestLabel:
    async def test_is_changed(self, keys: Visit, tenant: Tenant, credential: dict[str, Any]) -> None:
        await keys.button("Change label").click()
        await keys.field("Label", exact=True).fill("Acme staging")
        await in_dialog(keys, "Save").click()

        await expect(keys.page.get_by_text("Saved.", exact=True)).to_be_focused()
        assert (await get_json(tenant, path_of(tenant, credential)))["label"] == "Acme staging"

    async def test_that_another_admin_changed_is_shown_before_it_is_replaced(
        self, keys: Visit, tenant: Tenant, credential: dict[str, Any]
    ) -> None:
        path = path_of(tenant, credential)
        await keys.button("Change label").click()
        await keys.field("Label", exact=True).fill("Mine")
        await expect(in_dialog(keys, "Save")).to_be_enabled()
        await tenant.patch(path, json={"label": "Theirs"})
        await in_dialog(keys, "Save").click()

        await expect(keys.page.get_by_text("Now saved: Theirs.")).to_be_visible()
        assert (await get_json(tenant, path))["label"] == "Theirs"
        await in_dialog(keys, "Save").click()
        await expect(keys.page.get_by_text("Saved.", exact=True)).to_be_visible()
        assert (await get_json(tenant, path))["label"] == "Mine"


class TestRemoval:
    async def test_of_a_key_in_use_stops_work_and_shows_the_receipt(
        self, keys: Visit, tenant: Tenant, credential: dict[str, Any]
    ) -> None:
        await keys.button("Remove").click()
        await expect(keys.page.get_by_text("This key is in use.")).to_be_visible()
        await keys.field("Type the label").fill("another label")
        await keys.page.keyboard.press("Enter")
        await keys.field("Type the label").fill(credential["label"])
        await keys.page.keyboard.press("Enter")

        await expect(keys.page.get_by_text("Removed. Versions destroyed: 1.")).to_be_visible()
        assert (await get_json(tenant, tenant.credentials))["data"] == []


class TestValidation:
    async def test_now_shows_the_result(
        self, keys: Visit, fake_anthropic: FakeAnthropic, tenant: Tenant, credential: dict[str, Any]
    ) -> None:
        fake_anthropic.behave(fake_anthropic.received_keys()[-1], "overloaded")
        await keys.button("Validate now").click()

        await expect(keys.main.get_by_text("The last validation could not tell")).to_be_visible()
        found = await get_json(tenant, path_of(tenant, credential))
        assert (found["validation"]["status"], found["validation"]["latest"]["status"]) == (
            "valid",
            "indeterminate",
        )
        await keys.section("Overview")
        await expect(keys.main.get_by_text(re.compile("The result of .* stands"))).to_be_visible()

    async def test_history_lists_validations_and_versions(self, keys: Visit) -> None:
        await keys.main.get_by_text("Validations and versions").click()

        await expect(keys.page.get_by_role("table", name="Validations, newest first")).to_contain_text(
            "The key works."
        )
        await expect(keys.page.get_by_role("table", name="Versions of the key")).to_contain_text("active")

    async def test_history_that_failed_is_tried_again(self, keys: Visit) -> None:
        await keys.page.route("**/versions**", lambda route: route.abort())
        await keys.main.get_by_text("Validations and versions").click()
        await expect(keys.page.get_by_role("alert")).to_contain_text("no_response")
        await keys.page.unroute("**/versions**")
        await keys.button("Try again").click()

        await expect(keys.page.get_by_role("table", name="Versions of the key")).to_be_visible()


class TestDisabling:
    async def test_stops_work_until_the_key_is_enabled(
        self, keys: Visit, tenant: Tenant, credential: dict[str, Any]
    ) -> None:
        await keys.button("Disable").click()
        await expect(keys.main.get_by_text("Disabled. Work with this key is stopped")).to_be_focused()
        assert (await get_json(tenant, path_of(tenant, credential)))["state"] == "disabled"

        await keys.button("Enable").click()

        await expect(keys.main.get_by_text("Enabled.")).to_be_focused()
        assert (await get_json(tenant, path_of(tenant, credential)))["state"] == "active"


class TestScheduledKey:
    async def test_says_so(self, tenant: Tenant, visits: Visits, make_code: Code) -> None:
        created = await tenant.created()
        at = future_timestamp(days=1)
        await switch_mode(tenant, {"mode": "byo", "credential_id": created["id"], "effective_at": at})
        visit = await visits()
        await visit.open(make_code())
        await visit.section("Key")

        await expect(visit.main.get_by_text("Scheduled for use")).to_be_visible()
        await expect(visit.main.get_by_text("In use")).to_have_count(0)
