"""What holds on every path: tokens, scopes, problems, headers, browsers."""

import re
from collections.abc import AsyncIterator
from datetime import timedelta
from uuid import uuid4

import httpx
import pytest
from fastapi import FastAPI

from app.auth.principal import ROLES
from app.auth.signing_keys import EmbeddedIssuer
from app.core.services import Services
from tests.assembly import client_of
from tests.conftest import MakeTenant, MakeToken, Tenant


def assert_problem(response: httpx.Response, status: int, code: str) -> None:
    assert response.status_code == status
    assert response.headers["Content-Type"] == "application/problem+json"
    problem = response.json()
    assert {"type", "title", "status", "detail", "code", "request_id"} <= set(problem)
    assert (problem["status"], problem["code"]) == (status, code)
    assert problem["request_id"] == response.headers["X-Request-Id"]


class UnreadBody:
    """A body that nobody may read."""

    def __aiter__(self) -> AsyncIterator[bytes]:
        raise AssertionError("the body was read")


class TestToken:
    @pytest.mark.parametrize(
        "authorization",
        ["", "Bearer", "Bearer ", "Bearer x", "Basic dTpw", "Bearer a.b.c", "bearer", "Bearer é.ü.ö"],
    )
    async def test_that_is_none_is_401(self, tenant: Tenant, authorization: str) -> None:
        headers = {b"Authorization": authorization.encode("latin-1")}

        response = await tenant.http.get(tenant.credentials, headers=headers)

        assert_problem(response, 401, "unauthenticated")
        assert response.headers["WWW-Authenticate"].startswith("Bearer")

    async def test_that_is_missing_is_401_on_known_and_unknown_paths(self, http: httpx.AsyncClient) -> None:
        for path in ("/v1", "/v1/", "/v1/no-such-thing", "/v1/organizations/x/provider-credentials"):
            assert_problem(await http.get(path), 401, "unauthenticated")

    async def test_twice_is_401_even_if_both_are_good(self, tenant: Tenant) -> None:
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

    async def test_is_asked_for_before_the_body_is_read(self, http: httpx.AsyncClient) -> None:
        response = await http.post("/v1/organizations/x/provider-credentials", content=UnreadBody())

        assert_problem(response, 401, "unauthenticated")


class TestOrganization:
    @pytest.mark.parametrize("role", ["billing-admin", "billing-viewer"])
    @pytest.mark.parametrize("method", ["GET", "POST"])
    async def test_of_others_is_404_before_scopes_are_looked_at(
        self, make_tenant: MakeTenant, role: str, method: str
    ) -> None:
        response = await make_tenant(role).request(method, make_tenant().credentials, json={})

        assert_problem(response, 404, "not_found")

    async def test_unknown_one_is_there_and_empty(self, make_tenant: MakeTenant) -> None:
        tenant = make_tenant(organization=f"Never-seen_{uuid4().hex}")

        assert (await tenant.get(tenant.credentials)).json()["data"] == []

    async def test_every_one_is_open_to_internal_services(
        self, tenant: Tenant, make_token: MakeToken
    ) -> None:
        credential = await tenant.created()
        headers = {"Authorization": f"Bearer {make_token('service')}"}

        response = await tenant.http.get(f"{tenant.credentials}/{credential['id']}", headers=headers)

        assert response.json() == credential

    @pytest.mark.parametrize("name", ["x" * 65, "a.b", "a%20b", "%2A", "a%00", "é", "..%2Fx", "a\u2011b"])
    async def test_that_is_no_name_is_404(
        self, http: httpx.AsyncClient, make_token: MakeToken, name: str
    ) -> None:
        headers = {"Authorization": f"Bearer {make_token('service')}"}

        response = await http.get(f"/v1/organizations/{name}/provider-credentials", headers=headers)

        assert_problem(response, 404, "not_found")


class TestScope:
    async def test_that_is_missing_is_403_and_named(self, make_tenant: MakeTenant) -> None:
        response = await make_tenant("billing-viewer").create()

        assert_problem(response, 403, "insufficient_scope")
        assert 'scope="credentials:write"' in response.headers["WWW-Authenticate"]

    @pytest.mark.parametrize("path", ["provider-credentials", "audit-events"])
    async def test_to_write_does_not_let_anyone_read(
        self, tenant: Tenant, make_token: MakeToken, path: str
    ) -> None:
        token = make_token("ci", tenant.organization, scopes=["credentials:write"])

        response = await tenant.http.get(
            f"{tenant.path}/{path}", headers={"Authorization": f"Bearer {token}"}
        )

        assert_problem(response, 403, "insufficient_scope")


class TestPath:
    @pytest.mark.parametrize("path", ["/no-such-thing", "/v1/no-such-thing", "/relay/anthropic/v1/messages"])
    async def test_that_is_unknown_is_404(self, tenant: Tenant, path: str) -> None:
        assert_problem(await tenant.get(path), 404, "not_found")

    async def test_with_a_slash_too_many_is_404_not_a_redirect(self, tenant: Tenant) -> None:
        assert_problem(await tenant.post(f"{tenant.credentials}/", json={}), 404, "not_found")

    @pytest.mark.parametrize("name", ["x", "0", "null", "%00", uuid4().hex[:-1], f"{uuid4()}x"])
    @pytest.mark.parametrize("rest", ["", "/versions", "/validations"])
    async def test_whose_id_is_none_is_404(self, tenant: Tenant, name: str, rest: str) -> None:
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
    async def test_that_does_not_know_the_method_is_405_and_says_which_it_knows(
        self, tenant: Tenant, path: str, method: str, allowed: set[str]
    ) -> None:
        url = tenant.credentials + path.replace("{id}", str(uuid4()))

        response = await tenant.request(method, url)

        assert_problem(response, 405, "method_not_allowed")
        assert allowed <= set(response.headers["Allow"].split(", "))


class TestEveryAnswer:
    async def test_has_a_request_id_of_its_own(self, tenant: Tenant) -> None:
        answers = [
            await tenant.get(tenant.credentials, headers={"X-Request-Id": "mine"}),
            await tenant.get(f"{tenant.credentials}/x"),
            await tenant.http.get("/livez"),
            await tenant.http.get("/v1/x"),
        ]

        ids = [answer.headers["X-Request-Id"] for answer in answers]
        assert len(set(ids)) == len(ids)
        assert all(re.fullmatch(r"req_[0-9a-f]{32}", request_id) for request_id in ids)

    @pytest.mark.parametrize("path", ["/v1/x", "/v1/organizations/x/provider-credentials"])
    async def test_under_v1_is_not_stored_by_anyone(
        self, http: httpx.AsyncClient, tenant: Tenant, path: str
    ) -> None:
        answers = [await http.get(path), await tenant.get(path), await tenant.get(tenant.credentials)]

        assert [answer.headers["Cache-Control"] for answer in answers] == ["no-store"] * 3

    @pytest.mark.parametrize("path", ["/livez", "/docs", "/v1/x", "/no-such-thing"])
    async def test_tells_browsers_to_be_careful(self, http: httpx.AsyncClient, path: str) -> None:
        headers = (await http.get(path)).headers

        assert headers["X-Content-Type-Options"] == "nosniff"
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
        assert headers["Referrer-Policy"] == "no-referrer"
        assert "max-age=" in headers["Strict-Transport-Security"]
        assert "server" not in headers

    async def test_to_what_nobody_foresaw_is_a_500_that_tells_nothing(
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
