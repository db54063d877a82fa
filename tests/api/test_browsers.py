"""Which browsers may call: none, unless a setting says so."""

import pytest

from app.core.services import Services
from app.settings.environment import CorsSettings
from tests.assembly import client_of
from tests.conftest import Tenant

ORIGIN = "https://console.acme.example"


class TestBrowsers:
    async def test_of_other_origins_are_answered_nothing_by_default(self, tenant: Tenant) -> None:
        preflight = {"Origin": ORIGIN, "Access-Control-Request-Method": "POST"}

        answers = [
            await tenant.http.options(tenant.credentials, headers=preflight),
            await tenant.get(tenant.credentials, headers={"Origin": ORIGIN}),
        ]

        assert not any(name.startswith("access-control") for a in answers for name in a.headers)

    async def test_of_an_allowed_origin_may_call(self, tenant: Tenant, services: Services) -> None:
        cors = CorsSettings(allowed_origins=[ORIGIN])
        authorization = {"Authorization": f"Bearer {tenant.token}"}
        async with client_of(services, cors=cors) as client:
            preflight = await client.options(
                tenant.credentials, headers={"Origin": ORIGIN, "Access-Control-Request-Method": "POST"}
            )
            answer = await client.get(tenant.credentials, headers=authorization | {"Origin": ORIGIN})
            refused = await client.get("/v1/x", headers={"Origin": ORIGIN})

        assert preflight.status_code == 204
        assert "Idempotency-Key" in preflight.headers["Access-Control-Allow-Headers"]
        for response in (preflight, answer, refused):
            assert response.headers["Access-Control-Allow-Origin"] == ORIGIN
            assert "Origin" in response.headers["Vary"]
            assert "Access-Control-Allow-Credentials" not in response.headers
        assert "ETag" in answer.headers["Access-Control-Expose-Headers"]

    @pytest.mark.parametrize("origin", ["null", "https://evil.example", f"{ORIGIN}.evil.example", "http://x"])
    async def test_of_an_origin_that_is_not_on_the_list_may_not(
        self, services: Services, origin: str
    ) -> None:
        async with client_of(services, cors=CorsSettings(allowed_origins=[ORIGIN])) as client:
            answer = await client.get("/livez", headers={"Origin": origin})

        assert "Access-Control-Allow-Origin" not in answer.headers
