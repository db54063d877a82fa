"""GET /v1/session: whose token it is, and what it allows."""

from datetime import UTC, datetime, timedelta

import httpx

from app.auth.principal import ROLES
from app.auth.signing_keys import EmbeddedIssuer
from tests.support.tenant import MakeTenant, MakeToken


class TestSession:
    async def test_shows_subject_organization_scopes_and_expiry(self, make_tenant: MakeTenant) -> None:
        tenant = make_tenant("billing-viewer")

        session = (await tenant.get("/v1/session")).json()

        expires_at = datetime.fromisoformat(session.pop("expires_at"))
        assert timedelta(minutes=55) < expires_at - datetime.now(UTC) < timedelta(minutes=65)
        assert session == {
            "subject": "billing-viewer@example.com",
            "organization_id": tenant.organization,
            "scopes": sorted(ROLES["billing-viewer"]),
        }

    async def test_of_an_internal_service_has_no_organization(
        self, http: httpx.AsyncClient, make_token: MakeToken
    ) -> None:
        response = await http.get("/v1/session", headers={"Authorization": f"Bearer {make_token('service')}"})

        assert response.json()["organization_id"] == "*"

    async def test_needs_no_scope(self, http: httpx.AsyncClient, make_token: MakeToken) -> None:
        token = make_token(organization="org_acme", scopes=[])

        response = await http.get("/v1/session", headers={"Authorization": f"Bearer {token}"})

        assert (response.status_code, response.json()["scopes"]) == (200, [])

    async def test_without_a_token_is_unauthenticated(self, http: httpx.AsyncClient) -> None:
        assert (await http.get("/v1/session")).status_code == 401

    async def test_of_a_token_that_expires_after_the_last_year(
        self, http: httpx.AsyncClient, issuer: EmbeddedIssuer
    ) -> None:
        claims = {"iss": issuer.issuer, "aud": issuer.audience, "sub": "ada", "org": "org_acme", "scope": ""}
        token = issuer.sign({**claims, "exp": 10**15})

        response = await http.get("/v1/session", headers={"Authorization": f"Bearer {token}"})

        assert response.json()["expires_at"].startswith("9999-12-31")
