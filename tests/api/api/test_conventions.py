"""Conventions of all paths: tokens, organizations, scopes, problems, headers."""

import re
from datetime import timedelta
from uuid import uuid4

import httpx
import pytest
from fastapi import FastAPI

from app.auth.principal import ROLES
from app.auth.signing_keys import EmbeddedIssuer
from app.core.services import Services
from tests.support.openapi import openapi_document
from tests.support.problems import UnreadBody, assert_problem
from tests.support.service_builder import client_of
from tests.support.tenant import MakeTenant, MakeToken, Tenant

WITH_TOKEN = [
    (method.upper(), path)
    for path, operations in openapi_document()["paths"].items()
    for method, operation in operations.items()
    if operation["security"]
]


class TestToken:
    @pytest.mark.parametrize(
        "authorization",
        ["", "Bearer", "Bearer ", "Bearer x", "Basic dTpw", "Bearer a.b.c", "bearer", "Bearer é.ü.ö"],
    )
    async def test_that_is_malformed_is_401(self, tenant: Tenant, authorization: str) -> None:
        headers = {b"Authorization": authorization.encode("latin-1")}

        response = await tenant.http.get(tenant.credentials, headers=headers)

        assert_problem(response, 401, "unauthenticated")
        assert response.headers["WWW-Authenticate"].startswith("Bearer")

    async def test_that_is_missing_is_401_on_known_and_unknown_paths(self, http: httpx.AsyncClient) -> None:
        for path in ("/v1", "/v1/", "/v1/no-such-thing", "/v1/organizations/x/provider-credentials"):
            assert_problem(await http.get(path), 401, "unauthenticated")

    @pytest.mark.parametrize(("method", "path"), WITH_TOKEN)
    async def test_that_is_missing_is_401(self, http: httpx.AsyncClient, method: str, path: str) -> None:
        filled = re.sub(r"\{[^}]*\}", "org_acme", path)

        assert_problem(await http.request(method, filled), 401, "unauthenticated")

    async def test_sent_twice_is_401_even_if_both_are_valid(self, tenant: Tenant) -> None:
        authorization = ("Authorization", f"Bearer {tenant.token}")

        response = await tenant.http.get(tenant.credentials, headers=[authorization, authorization])

        assert_problem(response, 401, "unauthenticated")
        assert "WWW-Authenticate" in response.headers

    async def test_that_expired_is_401(self, tenant: Tenant, issuer: EmbeddedIssuer) -> None:
        expired = issuer.issue(
            subject="ada",
            organization_id=tenant.organization,
            scopes=ROLES["billing-admin"],
            ttl=timedelta(minutes=-5),
        )

        response = await tenant.http.get(tenant.credentials, headers={"Authorization": f"Bearer {expired}"})

        assert_problem(response, 401, "unauthenticated")

    @pytest.mark.parametrize(
        ("authorization", "challenge"),
        [
            (None, 'Bearer realm="byok"'),
            ("Basic dTpw", 'Bearer realm="byok"'),
            ("Bearer a.b.c", 'Bearer realm="byok", error="invalid_token"'),
            ("Bearer x", 'Bearer realm="byok", error="invalid_token"'),
        ],
    )
    async def test_that_was_sent_but_is_invalid_is_named_by_the_challenge(
        self, tenant: Tenant, authorization: str | None, challenge: str
    ) -> None:
        headers = {} if authorization is None else {"Authorization": authorization}

        response = await tenant.http.get(tenant.credentials, headers=headers)

        assert response.headers["WWW-Authenticate"] == challenge

    async def test_is_verified_before_the_body_is_read(self, http: httpx.AsyncClient) -> None:
        response = await http.post("/v1/organizations/x/provider-credentials", content=UnreadBody())

        assert_problem(response, 401, "unauthenticated")


class TestOrganization:
    @pytest.mark.parametrize("role", ["billing-admin", "billing-viewer"])
    @pytest.mark.parametrize("method", ["GET", "POST"])
    async def test_of_another_tenant_is_404_before_scopes_are_checked(
        self, make_tenant: MakeTenant, role: str, method: str
    ) -> None:
        response = await make_tenant(role).request(method, make_tenant().credentials, json={})

        assert_problem(response, 404, "not_found")

    async def test_that_is_new_exists_and_is_empty(self, make_tenant: MakeTenant) -> None:
        tenant = make_tenant(organization=f"Never-seen_{uuid4().hex}")

        assert (await tenant.get(tenant.credentials)).json()["data"] == []

    async def test_of_any_tenant_is_accessible_to_internal_services(
        self, tenant: Tenant, make_token: MakeToken
    ) -> None:
        credential = await tenant.created()
        headers = {"Authorization": f"Bearer {make_token('service')}"}

        response = await tenant.http.get(f"{tenant.credentials}/{credential['id']}", headers=headers)

        assert response.json() == credential

    @pytest.mark.parametrize("name", ["x" * 65, "a.b", "a%20b", "%2A", "a%00", "é", "..%2Fx", "a\u2011b"])
    async def test_with_an_invalid_name_is_404(
        self, http: httpx.AsyncClient, make_token: MakeToken, name: str
    ) -> None:
        headers = {"Authorization": f"Bearer {make_token('service')}"}

        response = await http.get(f"/v1/organizations/{name}/provider-credentials", headers=headers)

        assert_problem(response, 404, "not_found")

    @pytest.mark.parametrize("name", ["_operator", "_services", "_x"])
    async def test_that_is_reserved_cannot_be_bound_by_a_token(
        self, make_tenant: MakeTenant, make_token: MakeToken, name: str
    ) -> None:
        bound = make_tenant(organization=name)
        paths = (f"{bound.path}/audit-events", bound.credentials, f"{make_tenant().path}/audit-events")

        for path in paths:
            response = await bound.get(path)
            assert_problem(response, 401, "unauthenticated")
        check = await bound.post("/v1/provider-url-checks", json={"url": ""})
        assert_problem(check, 401, "unauthenticated")
        headers = {"Authorization": f"Bearer {make_token('service')}"}
        assert (await bound.http.get(f"{bound.path}/audit-events", headers=headers)).status_code == 200


class TestScope:
    async def test_that_is_missing_is_403_and_is_named(self, make_tenant: MakeTenant) -> None:
        response = await make_tenant("billing-viewer").create()

        assert_problem(response, 403, "insufficient_scope")
        assert 'scope="credentials:write"' in response.headers["WWW-Authenticate"]

    @pytest.mark.parametrize("path", ["provider-credentials", "audit-events"])
    async def test_to_write_does_not_allow_reading(
        self, tenant: Tenant, make_token: MakeToken, path: str
    ) -> None:
        token = make_token("ci", tenant.organization, scopes=["credentials:write"])

        response = await tenant.http.get(
            f"{tenant.path}/{path}", headers={"Authorization": f"Bearer {token}"}
        )

        assert_problem(response, 403, "insufficient_scope")


class TestPath:
    @pytest.mark.parametrize("path", ["/no-such-thing", "/v1/no-such-thing", "/relay"])
    async def test_that_is_unknown_is_404(self, tenant: Tenant, path: str) -> None:
        assert_problem(await tenant.get(path), 404, "not_found")

    async def test_with_a_trailing_slash_is_404_and_not_a_redirect(self, tenant: Tenant) -> None:
        assert_problem(await tenant.post(f"{tenant.credentials}/", json={}), 404, "not_found")

    @pytest.mark.parametrize(
        "name",
        ["x", "0", "null", "%00", "0199a2b4c6d87e01a2b3c4d5e6f7081", "0199a2b4-c6d8-7e01-a2b3-c4d5e6f70819x"],
    )
    @pytest.mark.parametrize("rest", ["", "/versions", "/validations"])
    async def test_with_an_invalid_id_is_404(self, tenant: Tenant, name: str, rest: str) -> None:
        assert_problem(await tenant.get(f"{tenant.credentials}/{name}{rest}"), 404, "not_found")

    @pytest.mark.parametrize(
        ("path", "method", "allowed"),
        [
            ("", "PUT", {"GET", "POST"}),
            ("", "DELETE", {"GET", "POST"}),
            ("/{id}", "POST", {"GET", "PATCH"}),
            ("/{id}/validations", "PUT", {"GET", "POST"}),
            ("/{id}/versions", "DELETE", {"GET"}),
        ],
    )
    async def test_that_does_not_support_the_method_is_405_and_lists_those_it_supports(
        self, tenant: Tenant, path: str, method: str, allowed: set[str]
    ) -> None:
        url = tenant.credentials + path.replace("{id}", str(uuid4()))

        response = await tenant.request(method, url)

        assert_problem(response, 405, "method_not_allowed")
        assert allowed <= set(response.headers["Allow"].split(", "))


class TestEveryResponse:
    async def test_has_a_separate_request_id(self, tenant: Tenant) -> None:
        responses = [
            await tenant.get(tenant.credentials, headers={"X-Request-Id": "mine"}),
            await tenant.get(f"{tenant.credentials}/x"),
            await tenant.http.get("/livez"),
            await tenant.http.get("/v1/x"),
        ]

        ids = [response.headers["X-Request-Id"] for response in responses]
        assert len(set(ids)) == len(ids)
        assert all(re.fullmatch(r"req_[0-9a-f]{32}", request_id) for request_id in ids)

    @pytest.mark.parametrize("path", ["/v1/x", "/v1/organizations/x/provider-credentials"])
    async def test_under_v1_must_not_be_stored(
        self, http: httpx.AsyncClient, tenant: Tenant, path: str
    ) -> None:
        responses = [await http.get(path), await tenant.get(path), await tenant.get(tenant.credentials)]

        assert [response.headers["Cache-Control"] for response in responses] == ["no-store"] * 3

    @pytest.mark.parametrize("path", ["/livez", "/docs", "/v1/x", "/no-such-thing"])
    async def test_has_security_headers(self, http: httpx.AsyncClient, path: str) -> None:
        headers = (await http.get(path)).headers

        assert headers["X-Content-Type-Options"] == "nosniff"
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
        assert headers["Referrer-Policy"] == "no-referrer"
        assert "max-age=" in headers["Strict-Transport-Security"]
        assert "server" not in headers

    async def test_to_an_unexpected_error_is_a_500_without_details(
        self, tenant: Tenant, services: Services
    ) -> None:
        canary = "sk-ant-api03-canary-canary-canary"

        async def fail() -> None:
            raise RuntimeError(canary)

        def extend(app: FastAPI) -> None:
            app.add_api_route("/v1/failing", fail)

        async with client_of(services, extend=extend) as client:
            response = await client.get("/v1/failing", headers={"Authorization": f"Bearer {tenant.token}"})

        assert_problem(response, 500, "internal_error")
        assert "canary" not in response.text
        assert response.headers["Cache-Control"] == "no-store"
