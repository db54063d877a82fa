"""DELETE usage-mode/scheduled cancels the scheduled switch and leaves the active mode."""

from tests.support.requests.usage_mode import (
    BYO_WITHOUT_CREDENTIAL,
    future_timestamp,
    get_usage_mode,
    switch_mode,
)
from tests.support.tenant import MakeTenant, Tenant


class TestCancelScheduled:
    async def test_leaves_the_active_mode(self, tenant: Tenant) -> None:
        scheduled = await switch_mode(
            tenant, BYO_WITHOUT_CREDENTIAL | {"effective_at": future_timestamp(days=1)}
        )
        assert scheduled["scheduled"]["changed_by"] == "billing-admin@example.com"
        assert scheduled["scheduled"]["changed_at"] < scheduled["scheduled"]["effective_at"]

        response = await tenant.request("DELETE", f"{tenant.path}/usage-mode/scheduled")

        assert (response.status_code, response.json()["scheduled"]) == (200, None)
        assert (await get_usage_mode(tenant)) == response.json()
        (event,) = (
            await tenant.get(f"{tenant.path}/audit-events?action=usage_mode.schedule_cancelled")
        ).json()["data"]
        assert event["details"]["mode"] == "byo"

    async def test_without_a_scheduled_switch_changes_nothing(self, tenant: Tenant) -> None:
        response = await tenant.request("DELETE", f"{tenant.path}/usage-mode/scheduled")

        assert (response.status_code, response.json()["mode"]) == (200, "managed")

    async def test_of_another_revision_is_refused(self, tenant: Tenant) -> None:
        await switch_mode(tenant, BYO_WITHOUT_CREDENTIAL | {"effective_at": future_timestamp(days=1)})

        response = await tenant.request(
            "DELETE", f"{tenant.path}/usage-mode/scheduled", headers={"If-Match": '"r0"'}
        )

        assert (response.status_code, response.json()["code"]) == (412, "precondition_failed")
        assert (await get_usage_mode(tenant))["scheduled"] is not None

    async def test_needs_the_scope_to_write(self, make_tenant: MakeTenant) -> None:
        viewer = make_tenant("billing-viewer")

        response = await viewer.request("DELETE", f"{viewer.path}/usage-mode/scheduled")

        assert response.status_code == 403
