"""What is behind each blocker: which key and why, which limit and until when."""

from datetime import UTC, datetime
from typing import Any

from tests.support.requests.rotation import create_credential
from tests.support.requests.spend_limits import MONTHLY
from tests.support.requests.usage_mode import switch_mode
from tests.support.tenant import Tenant


async def details(tenant: Tenant) -> list[dict[str, Any]]:
    readiness = (await tenant.get(f"{tenant.path}/readiness")).json()
    found: list[dict[str, Any]] = readiness["details"]
    assert list(dict.fromkeys(it["code"] for it in found)) == readiness["blockers"]
    return [{name: value for name, value in it.items() if value is not None} for it in found]


class TestBlockerDetails:
    async def test_are_empty_when_work_may_start(self, tenant: Tenant) -> None:
        assert await details(tenant) == []

    async def test_of_an_invalid_key_name_it_and_the_reason(self, tenant: Tenant) -> None:
        credential = (await create_credential(tenant, "invalid")).rpartition("/")[2]
        await switch_mode(tenant, {"mode": "byo", "credential_id": credential})

        assert await details(tenant) == [
            {"code": "credential_not_valid", "credential_id": credential, "reason": "invalid_key"}
        ]

    async def test_of_a_missing_key_name_only_the_code(self, tenant: Tenant) -> None:
        await switch_mode(tenant, {"mode": "byo", "credential_id": None})

        assert await details(tenant) == [{"code": "credential_missing"}]

    async def test_name_each_full_limit_and_when_its_period_ends(self, tenant: Tenant) -> None:
        nothing = {"amount": {"amount": "0", "currency": "USD"}}
        limits = {}
        for period in ("day", "month", "total"):
            created = await tenant.post(
                f"{tenant.path}/spend-limits", json=MONTHLY | nothing | {"period": period, "name": period}
            )
            assert created.status_code == 201, created.text
            limits[period] = created.json()

        found = {it["limit_name"]: it for it in await details(tenant)}

        assert {name: it["limit_id"] for name, it in found.items()} == {
            period: limit["id"] for period, limit in limits.items()
        }
        assert found["day"]["period_ends_at"] == limits["day"]["period_ends_at"]
        assert found["month"]["period_ends_at"] == limits["month"]["period_ends_at"]
        assert datetime.fromisoformat(found["month"]["period_ends_at"]) > datetime.now(UTC)
        assert "period_ends_at" not in found["total"]
