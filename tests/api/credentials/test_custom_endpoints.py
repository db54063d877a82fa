"""Tests of custom endpoints: keys are sent to the endpoint of their credential and to no other host."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.core.services import Services
from app.database.engine import Database
from tests.support.database.rows import fetch
from tests.support.network.scripted_servers import AUTHORITY
from tests.support.polling import until
from tests.support.provider.custom_endpoint_service import (
    ADDRESS,
    HOST,
    HOST_WITHOUT_RECORDS,
    MIXED_HOST,
    OTHER_ADDRESS,
    OTHER_HOST,
    PRIVATE_HOST,
    REFUSED_BY_DNS,
    REFUSED_BY_POLICY,
    SILENT_HOST,
    URL,
    CustomEndpointService,
    custom_endpoint_service,
)
from tests.support.provider.fake_anthropic import FakeAnthropic, make_key, serve
from tests.support.requests.rotation import post_rotation, status_and_code
from tests.support.tenant import Tenant

SHORT_KEY = "gw-42-valid"


@pytest.fixture
async def endpoint_service(
    services: Services, database: Database, tmp_path: Path
) -> AsyncIterator[CustomEndpointService]:
    pem = tmp_path / "far.pem"
    AUTHORITY.issue_cert(HOST, OTHER_HOST).private_key_and_cert_chain_pem.write_to_path(str(pem))
    async with (
        serve(certificate=pem) as provider,
        custom_endpoint_service(services, database, provider) as endpoint_service,
    ):
        yield endpoint_service


@pytest.fixture
def custom_tenant(tenant: Tenant, endpoint_service: CustomEndpointService) -> Tenant:
    """An admin who uses that service."""
    return replace(tenant, http=endpoint_service.http)


async def nothing_was_saved(tenant: Tenant, superuser: AsyncEngine) -> bool:
    tables = ("provider_credential", "credential_version", "fingerprint_claim", "job_queue", "audit_event")
    statement = " UNION ALL ".join(f"SELECT 1 FROM {table} WHERE organization_id = :o" for table in tables)
    return await fetch(superuser, statement, o=tenant.organization) == []


class TestCreate:
    @pytest.mark.parametrize(
        ("entered", "base_url"),
        [
            (URL, URL),
            (f"HTTPS://{HOST.upper()}:443/", URL),
            (f"{URL}/v1", URL),
            (f"{URL}/v1/messages", URL),
            (f"{URL}//v1//messages/", URL),
            (f"{URL}/anthropic/v1/messages", f"{URL}/anthropic"),
        ],
    )
    async def test_stores_the_url_in_canonical_form(
        self, custom_tenant: Tenant, entered: str, base_url: str
    ) -> None:
        credential = await custom_tenant.created(base_url=entered)

        assert credential["base_url"] == base_url
        assert credential["messages_url"] == f"{base_url}/v1/messages"

    async def test_validates_the_key_only_at_the_custom_endpoint(
        self, custom_tenant: Tenant, endpoint_service: CustomEndpointService, fake_anthropic: FakeAnthropic
    ) -> None:
        key = make_key()

        credential = await custom_tenant.created(base_url=URL, api_key=key)

        assert (credential["validation"]["status"], credential["validation"]["reason"]) == ("valid", "ok")
        (request,) = endpoint_service.provider.requests_of(key)
        assert (request.method, request.path, request.complaints) == ("POST", "/v1/messages", ())
        assert fake_anthropic.requests_of(key) == []
        assert endpoint_service.backend.connected_hosts == [ADDRESS]

    async def test_resolves_the_name_on_saving_and_on_connecting(
        self, custom_tenant: Tenant, endpoint_service: CustomEndpointService
    ) -> None:
        await custom_tenant.created(base_url=URL)

        assert endpoint_service.resolver.queries == [HOST, HOST]

    async def test_saves_a_rejected_key_as_invalid(self, custom_tenant: Tenant) -> None:
        credential = await custom_tenant.created("invalid", base_url=URL)

        assert (credential["validation"]["status"], credential["state"]) == ("invalid", "active")

    @pytest.mark.parametrize(
        ("style", "other", "words"),
        [
            ("bearer", "x_api_key", "`x-api-key`: rotate to the same key with `auth_style` `x_api_key`"),
            (
                "x_api_key",
                "bearer",
                "`Authorization: Bearer`: rotate to the same key with `auth_style` `bearer`",
            ),
        ],
    )
    async def test_says_that_the_header_may_be_the_cause_of_an_invalid_key(
        self,
        custom_tenant: Tenant,
        endpoint_service: CustomEndpointService,
        style: str,
        other: str,
        words: str,
    ) -> None:
        key = make_key("invalid")
        created = await custom_tenant.create(base_url=URL, auth_style=style, api_key=key)
        path = created.headers["Location"]
        rotation = await post_rotation(custom_tenant, path, "invalid", activate="immediately")

        versions = (await custom_tenant.get(f"{path}/versions")).json()["data"]
        requested = await custom_tenant.post(f"{path}/validations")
        history = (await custom_tenant.get(f"{path}/validations")).json()["data"]
        assert len(history) == 3
        embedded = [body["validation"] for body in (created.json(), rotation.json(), *versions)]
        for validation in (*embedded, requested.json(), *history):
            assert (validation["reason"], validation["other_auth_style"]) == ("invalid_key", other)
            assert words in validation["message"]
        (request,) = endpoint_service.provider.requests_of(key)  # the other header was not tried
        assert request.credential_header == ("authorization" if style == "bearer" else "x-api-key")

    @pytest.mark.parametrize(
        ("behaviour", "base_url"), [("invalid", None), ("valid", URL), ("overloaded", URL)]
    )
    async def test_does_not_blame_the_header_for_anything_else(
        self, custom_tenant: Tenant, tenant: Tenant, behaviour: str, base_url: str | None
    ) -> None:
        admin = tenant if base_url is None else custom_tenant

        validation = (await admin.created(behaviour, base_url=base_url))["validation"]

        assert (validation["other_auth_style"], validation["message"]) == (None, None)

    @pytest.mark.parametrize("empty", ["", None])
    async def test_empty_url_means_the_default_endpoint(self, tenant: Tenant, empty: str | None) -> None:
        credential = await tenant.created(base_url=empty)

        assert credential["base_url"] is None
        assert credential["validation"]["status"] == "valid"

    @pytest.mark.parametrize(
        ("host", "requested_style", "style", "header"),
        [
            (HOST, None, "bearer", "authorization"),
            (OTHER_HOST, None, "x_api_key", "x-api-key"),
            (HOST, "x_api_key", "x_api_key", "x-api-key"),
            (OTHER_HOST, "bearer", "bearer", "authorization"),
        ],
    )
    async def test_sends_the_key_in_the_header_of_the_auth_style(
        self,
        custom_tenant: Tenant,
        endpoint_service: CustomEndpointService,
        host: str,
        requested_style: str | None,
        style: str,
        header: str,
    ) -> None:
        key = make_key()

        credential = await custom_tenant.created(
            base_url=f"https://{host}", auth_style=requested_style, api_key=key
        )

        assert credential["auth_style"] == style
        (request,) = endpoint_service.provider.requests_of(key)
        assert request.credential_header == header
        assert endpoint_service.backend.connected_hosts == [ADDRESS if host == HOST else OTHER_ADDRESS]

    async def test_sends_workspace_and_model_with_the_probe(
        self, custom_tenant: Tenant, endpoint_service: CustomEndpointService
    ) -> None:
        key = make_key()

        credential = await custom_tenant.created(
            base_url=URL, workspace_id="wrkspc_1", probe_model="claude-none-such", api_key=key
        )

        assert (credential["workspace_id"], credential["probe_model"]) == ("wrkspc_1", "claude-none-such")
        assert credential["validation"]["reason"] == "model_not_found"
        (request,) = endpoint_service.provider.requests_of(key)
        assert request.shown_headers["anthropic-workspace-id"] == "wrkspc_1"

    @pytest.mark.parametrize(
        "key",
        [SHORT_KEY, "sk-or-v1-0123456789abcdef-valid", "x" * 506 + "-valid", "eyJ" + "x" * 4087 + "-valid"],
    )
    async def test_accepts_keys_of_any_format(self, custom_tenant: Tenant, key: str) -> None:
        credential = await custom_tenant.created(base_url=URL, api_key=key)

        assert credential["validation"]["status"] == "valid"
        assert (credential["key_hint"] is None) is (len(key) < 40)
        assert key not in str(credential)


class TestRejectedCreate:
    @pytest.mark.parametrize(("url", "reason"), (REFUSED_BY_POLICY | REFUSED_BY_DNS).items())
    async def test_rejects_the_url_with_its_reason_and_saves_nothing(
        self,
        custom_tenant: Tenant,
        endpoint_service: CustomEndpointService,
        superuser: AsyncEngine,
        url: str,
        reason: str,
    ) -> None:
        response = await custom_tenant.create(base_url=url)

        assert (response.status_code, response.json()["code"]) == (422, reason)
        (error,) = response.json()["errors"]
        assert (error["field"], error["code"]) == ("base_url", reason)
        assert not [part for part in ("hunter2", "10.1.2.3", "127.0.0.1") if part in response.text]
        assert await nothing_was_saved(custom_tenant, superuser)
        assert endpoint_service.backend.connected_hosts == []

    @pytest.mark.parametrize("url", REFUSED_BY_POLICY)
    async def test_does_not_resolve_urls_that_violate_the_policy(
        self, custom_tenant: Tenant, endpoint_service: CustomEndpointService, url: str
    ) -> None:
        await custom_tenant.create(base_url=url)

        assert endpoint_service.resolver.queries == []

    async def test_failed_dns_lookup_is_retryable_and_saves_nothing(
        self, custom_tenant: Tenant, endpoint_service: CustomEndpointService, superuser: AsyncEngine
    ) -> None:
        response = await custom_tenant.create(base_url=f"https://{SILENT_HOST}")

        assert (response.status_code, response.json()["code"]) == (503, "dns_unavailable")
        assert int(response.headers["Retry-After"]) > 0
        assert await nothing_was_saved(custom_tenant, superuser)
        assert endpoint_service.backend.connected_hosts == []

    @pytest.mark.parametrize(
        ("key", "code"),
        [
            ("", "key_empty"),
            ("x" * 4097, "key_too_long"),
            (f" {SHORT_KEY}", "key_has_whitespace"),
            (f"{SHORT_KEY}\n", "key_has_whitespace"),
            ("gw\x00key", "key_malformed"),
            ("gw-schlüssel", "key_malformed"),
            ("sk-ant-admin01-0123456789abcdefghij", "admin_key"),
            ("sk-ant-oat01-0123456789abcdefghij", "oauth_token"),
            ("sk-ant-sid01-0123456789abcdefghij", "session_key"),
            ('"sk-ant-admin01-0123456789abcdefghij"', "admin_key"),
            ("ANTHROPIC_API_KEY=sk-ant-oat01-0123456789abcdefghij", "oauth_token"),
            ("Bearer sk-ant-ort01-0123456789abcdefghij", "oauth_token"),
            ("sessionKey=sk-ant-sid01-0123456789abcdefghij", "session_key"),
            ("gw:SK-ANT-SID01-0123456789abcdefghij", "session_key"),
            (f"'{SHORT_KEY}'", "key_has_quotes"),
            (f"GATEWAY_KEY={SHORT_KEY}", "key_is_assignment"),
            ("sk-or-...abcd", "key_is_masked"),
            (URL, "key_is_url"),
        ],
    )
    async def test_rejects_texts_that_cannot_be_keys(
        self, custom_tenant: Tenant, endpoint_service: CustomEndpointService, key: str, code: str
    ) -> None:
        response = await custom_tenant.create(base_url=URL, api_key=key)

        assert (response.status_code, response.json()["code"]) == (422, code)
        assert (endpoint_service.resolver.queries, endpoint_service.backend.connected_hosts) == ([], [])

    @pytest.mark.parametrize("base_url", [None, ""])
    async def test_rejects_keys_of_other_formats_without_a_url(
        self, tenant: Tenant, base_url: str | None
    ) -> None:
        response = await tenant.create(base_url=base_url, api_key=SHORT_KEY)

        assert (response.status_code, response.json()["code"]) == (422, "key_malformed")

    @pytest.mark.parametrize(
        "fields",
        [
            {"base_url": URL},
            {"auth_style": "bearer"},
            {"workspace_id": "w"},
            {"base_url": None, "label": "x"},
        ],
    )
    async def test_rejects_a_patch_of_the_endpoint(
        self, custom_tenant: Tenant, fields: dict[str, Any]
    ) -> None:
        credential = await custom_tenant.created(base_url=URL)

        response = await custom_tenant.patch(f"{custom_tenant.credentials}/{credential['id']}", json=fields)

        assert (response.status_code, response.json()["code"]) == (422, "destination_is_bound")


async def _count(queries: list[str]) -> int:
    return len(queries)


class TestDnsRebinding:
    """The host resolves to a public address on saving and to a private one on connecting."""

    async def test_does_not_connect_to_a_private_address(
        self, custom_tenant: Tenant, endpoint_service: CustomEndpointService
    ) -> None:
        endpoint_service.resolver._responses[HOST] = [[ADDRESS], ["169.254.169.254"]]

        credential = await custom_tenant.created(base_url=URL)

        assert credential["validation"]["reason"] == "address_refused"
        assert endpoint_service.backend.connected_hosts == []

    async def test_failed_dns_lookup_makes_the_result_indeterminate(
        self, custom_tenant: Tenant, endpoint_service: CustomEndpointService
    ) -> None:
        endpoint_service.resolver._responses[HOST] = [[ADDRESS], None]

        credential = await custom_tenant.created(base_url=URL)

        result = credential["validation"]
        assert (result["status"], result["reason"]) == ("indeterminate", "dns_unavailable")


class TestRotation:
    async def test_rejects_a_rotation_that_another_one_overtook(
        self, custom_tenant: Tenant, endpoint_service: CustomEndpointService
    ) -> None:
        credential = await custom_tenant.created(base_url=URL)
        path = f"{custom_tenant.credentials}/{credential['id']}"
        queries_before = len(endpoint_service.resolver.queries)
        endpoint_service.resolver.blocked[HOST] = asyncio.Event()
        first_key = make_key()

        # This rotation keeps the host of the active version, and waits for its name server.
        first = asyncio.create_task(
            custom_tenant.post(f"{path}/rotations", json={"api_key": first_key, "activate": "immediately"})
        )
        await until(lambda: _count(endpoint_service.resolver.queries), lambda count: count > queries_before)
        second_body = {"api_key": make_key(), "base_url": None, "activate": "immediately"}
        second = await custom_tenant.post(f"{path}/rotations", json=second_body)
        endpoint_service.resolver.blocked.pop(HOST).set()

        assert second.json()["state"] == "activated"
        assert status_and_code(await first) == (409, "rotation_in_progress")
        assert (await custom_tenant.get(path)).json()["base_url"] is None
        assert endpoint_service.provider.requests_of(first_key) == []

    @pytest.mark.parametrize("path", ["", "/anthropic", "/v1/v1"])
    async def test_keeps_the_endpoint_unchanged(self, custom_tenant: Tenant, path: str) -> None:
        before = await custom_tenant.created(base_url=URL + path, auth_style="x_api_key")

        await custom_tenant.post(
            f"{custom_tenant.credentials}/{before['id']}/rotations",
            json={"api_key": SHORT_KEY, "activate": "immediately"},
        )

        after = (await custom_tenant.get(f"{custom_tenant.credentials}/{before['id']}")).json()
        assert after["key_version"] == 2
        for name in ("base_url", "messages_url", "auth_style"):
            assert after[name] == before[name]

    async def test_chooses_the_auth_style_of_another_host(
        self, custom_tenant: Tenant, endpoint_service: CustomEndpointService
    ) -> None:
        path = f"{custom_tenant.credentials}/{(await custom_tenant.created(base_url=URL))['id']}"

        response = await custom_tenant.post(
            f"{path}/rotations", json={"api_key": make_key(), "base_url": f"https://{OTHER_HOST}"}
        )

        assert response.json()["state"] == "activated"
        after = (await custom_tenant.get(path)).json()
        assert (after["base_url"], after["auth_style"]) == (f"https://{OTHER_HOST}", "x_api_key")
        assert endpoint_service.backend.connected_hosts == [ADDRESS, OTHER_ADDRESS]

    @pytest.mark.parametrize(
        ("host", "status", "code"),
        [
            (PRIVATE_HOST, 422, "dns_private_address"),
            (MIXED_HOST, 422, "dns_private_address"),
            (HOST_WITHOUT_RECORDS, 422, "dns_no_records"),
            (SILENT_HOST, 503, "dns_unavailable"),
        ],
    )
    async def test_rejects_a_host_that_cannot_be_used(
        self, custom_tenant: Tenant, host: str, status: int, code: str
    ) -> None:
        created = await custom_tenant.create(base_url=URL)
        path = created.headers["Location"]

        response = await custom_tenant.post(
            f"{path}/rotations", json={"api_key": make_key(), "base_url": f"https://{host}"}
        )

        assert (response.status_code, response.json()["code"]) == (status, code)
        assert (await custom_tenant.get(path)).json() == created.json()

    async def test_rollback_restores_the_endpoint(self, custom_tenant: Tenant) -> None:
        before = await custom_tenant.created(base_url=URL)
        path = f"{custom_tenant.credentials}/{before['id']}"
        await custom_tenant.post(
            f"{path}/rotations", json={"api_key": make_key(), "base_url": f"https://{OTHER_HOST}"}
        )

        after = (await custom_tenant.post(f"{path}/rollback")).json()

        for name in ("key_version", "base_url", "messages_url", "auth_style", "fingerprint"):
            assert after[name] == before[name]
