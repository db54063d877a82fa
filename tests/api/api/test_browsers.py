"""CORS: no origin is allowed unless the settings allow it."""

import pytest

from app.core.services import Services
from app.settings.groups.access import CorsSettings
from tests.support.service_builder import client_of
from tests.support.tenant import Tenant

ORIGIN = "https://console.acme.example"


class TestCors:
    async def test_allows_no_origin_by_default(self, tenant: Tenant) -> None:
        preflight = {"Origin": ORIGIN, "Access-Control-Request-Method": "POST"}

        responses = [
            await tenant.http.options(tenant.credentials, headers=preflight),
            await tenant.get(tenant.credentials, headers={"Origin": ORIGIN}),
        ]

        assert not any(
            name.startswith("access-control") for response in responses for name in response.headers
        )

    async def test_allows_an_origin_from_the_settings(self, tenant: Tenant, services: Services) -> None:
        cors = CorsSettings(allowed_origins=[ORIGIN])
        authorization = {"Authorization": f"Bearer {tenant.token}"}
        async with client_of(services, cors=cors) as client:
            preflight = await client.options(
                tenant.credentials, headers={"Origin": ORIGIN, "Access-Control-Request-Method": "POST"}
            )
            listed = await client.get(tenant.credentials, headers=authorization | {"Origin": ORIGIN})
            problem = await client.get("/v1/x", headers={"Origin": ORIGIN})

        assert preflight.status_code == 204
        assert "Idempotency-Key" in preflight.headers["Access-Control-Allow-Headers"]
        for response in (preflight, listed, problem):
            assert response.headers["Access-Control-Allow-Origin"] == ORIGIN
            assert "Origin" in response.headers["Vary"]
            assert "Access-Control-Allow-Credentials" not in response.headers
        assert "ETag" in listed.headers["Access-Control-Expose-Headers"]
        assert problem.headers["Content-Type"] == "application/problem+json"

    @pytest.mark.parametrize("origin", ["null", "https://evil.example", f"{ORIGIN}.evil.example", "http://x"])
    async def test_allows_no_other_origin(self, services: Services, origin: str) -> None:
        async with client_of(services, cors=CorsSettings(allowed_origins=[ORIGIN])) as client:
            response = await client.get("/livez", headers={"Origin": origin})
            preflight = await client.options(
                "/livez", headers={"Origin": origin, "Access-Control-Request-Method": "GET"}
            )

        assert not any(name.startswith("access-control") for name in (*response.headers, *preflight.headers))
        assert preflight.headers["Content-Type"] == "application/problem+json"
