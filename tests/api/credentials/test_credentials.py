"""Tests of creating and getting credentials."""

import secrets
from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID, uuid4

import pytest

from app.core.services import Services
from app.database.engine import Database
from app.database.unit_of_work import UnitsOfWork
from app.egress.anthropic import AnthropicClient
from tests.support.fakes import FakeSecretStore
from tests.support.polling import until
from tests.support.provider.fake_anthropic import FakeAnthropic, Served, make_key
from tests.support.service_builder import assemble, client_of
from tests.support.tenant import MakeTenant, Tenant


class TestCreate:
    async def test_returns_masked_metadata_with_the_validation_result(self, tenant: Tenant) -> None:
        key = make_key("valid")

        response = await tenant.create(api_key=key)

        assert response.status_code == 201
        credential = response.json()
        assert credential["validation"]["status"] == "valid"
        assert credential["key_hint"] == f"{key[:16]}...{key[-4:]}"
        assert key not in response.text

    async def test_response_has_every_field_of_the_contract(self, tenant: Tenant, provider: Served) -> None:
        credential = await tenant.created(label="Acme production")

        assert UUID(credential.pop("id")).version == 7
        result = credential.pop("validation")
        assert result["latest"] == {name: result[name] for name in ("status", "reason", "checked_at")}
        assert (result["reason"], result["key_version"]) == ("ok", 1)
        times = [credential.pop(name) for name in ("created_at", "updated_at")] + [result["checked_at"]]
        assert all(time.endswith("Z") and datetime.fromisoformat(time) for time in times)
        assert credential.pop("fingerprint").startswith("v1:")
        assert credential.pop("key_hint")
        assert datetime.fromisoformat(credential.pop("next_validation_at")) > datetime.now(UTC)
        assert credential == {
            "organization_id": tenant.organization,
            "provider": "anthropic",
            "label": "Acme production",
            "state": "active",
            "key_version": 1,
            "base_url": None,
            "messages_url": f"{provider.base_url}/v1/messages",
            "auth_style": "x_api_key",
            "workspace_id": None,
            "probe_model": None,
            "previous": None,
            "rotation": None,
            "created_by": "billing-admin@example.com",
            "rotated_at": None,
            "last_used_at": None,
        }

    async def test_location_is_the_path_of_the_credential(self, tenant: Tenant) -> None:
        response = await tenant.create()

        found = await tenant.get(response.headers["Location"])
        assert found.json() == response.json()
        assert found.headers["ETag"] == response.headers["ETag"]

    async def test_sends_the_exact_key_to_the_provider(
        self, tenant: Tenant, fake_anthropic: FakeAnthropic
    ) -> None:
        key = make_key()

        await tenant.created(api_key=key)

        assert fake_anthropic.received_keys().count(key) == 1
        (request,) = fake_anthropic.requests_of(key)
        assert (request.credential_header, request.complaints) == ("x-api-key", ())

    async def test_stores_and_uses_auth_style_and_workspace(
        self, tenant: Tenant, fake_anthropic: FakeAnthropic
    ) -> None:
        key = make_key("orgscoped")

        credential = await tenant.created(api_key=key, auth_style="bearer", workspace_id="wrkspc_01")

        assert (credential["auth_style"], credential["workspace_id"]) == ("bearer", "wrkspc_01")
        assert credential["validation"]["status"] == "valid"
        (request,) = fake_anthropic.requests_of(key)
        assert request.credential_header == "authorization"

    async def test_empty_base_url_is_null(self, tenant: Tenant, provider: Served) -> None:
        credential = await tenant.created(base_url="")

        assert credential["base_url"] is None
        assert credential["messages_url"] == f"{provider.base_url}/v1/messages"

    @pytest.mark.parametrize(("length", "has_hint"), [(39, False), (40, True)])
    async def test_hint_is_null_for_keys_under_forty_characters(
        self, tenant: Tenant, length: int, has_hint: bool
    ) -> None:
        start = "sk-ant-api03-"
        key = f"{start}{secrets.token_hex(20)[: length - len(start) - 6]}-valid"
        assert len(key) == length

        credential = await tenant.created(api_key=key)

        assert (credential["key_hint"] is not None) == has_hint

    async def test_accepts_a_key_of_maximum_length(self, tenant: Tenant) -> None:
        key = make_key()
        padded = key.replace("api03-", "api03-" + "a" * (512 - len(key)))

        credential = await tenant.created(api_key=padded)

        assert credential["validation"]["status"] == "valid"

    async def test_saves_a_key_that_the_provider_rejects_as_invalid(self, tenant: Tenant) -> None:
        credential = await tenant.created("invalid")

        assert credential["state"] == "active"
        assert credential["validation"]["status"] == "invalid"
        assert credential["validation"]["reason"] == "invalid_key"
        found = await tenant.get(f"{tenant.credentials}/{credential['id']}")
        assert found.json() == credential

    async def test_respond_async_returns_before_the_validation_result(
        self, tenant: Tenant, slow_provider: FakeAnthropic
    ) -> None:
        response = await tenant.create("slow", headers={"Prefer": "return=minimal, respond-async; foo=1"})

        assert response.status_code == 201
        assert response.headers["Preference-Applied"] == "respond-async"
        result = response.json()["validation"]
        assert (result["status"], result["reason"], result["checked_at"]) == ("pending", None, None)
        slow_provider.release.set()
        await until(
            lambda: tenant.get(response.headers["Location"]),
            lambda found: found.json()["validation"]["status"] == "valid",
        )

    async def test_unknown_preference_is_ignored(self, tenant: Tenant) -> None:
        response = await tenant.create(headers={"Prefer": "return=minimal"})

        assert response.json()["validation"]["status"] == "valid"
        assert "Preference-Applied" not in response.headers


class TestDuplicates:
    async def test_same_key_in_the_organization_is_rejected_with_the_other_id(self, tenant: Tenant) -> None:
        key = make_key()
        first = await tenant.created(api_key=key)

        response = await tenant.create(api_key=key)

        assert response.status_code == 409
        assert response.json()["code"] == "duplicate_key"
        assert response.json()["credential_id"] == first["id"]

    async def test_same_key_in_another_organization_is_accepted(self, make_tenant: MakeTenant) -> None:
        key = make_key()
        first = await make_tenant().created(api_key=key)

        second = await make_tenant().created(api_key=key)

        assert second["fingerprint"] != first["fingerprint"]


class TestSecretStoreUnavailable:
    @pytest.mark.usefixtures("uncalled_provider")
    async def test_returns_503_and_saves_nothing(
        self, tenant: Tenant, services: Services, database: Database, prober: AnthropicClient
    ) -> None:
        store = FakeSecretStore()
        store.unavailable = True
        parts = assemble(services, units=UnitsOfWork(database), store=store, prober=prober)

        async with client_of(parts) as client:
            response = await replace(tenant, http=client).create()

        assert response.status_code == 503
        assert response.json()["code"] == "secret_store_unavailable"
        assert int(response.headers["Retry-After"]) > 0
        assert (await tenant.get(tenant.credentials)).json()["data"] == []


class TestGet:
    async def test_viewer_may_read(self, tenant: Tenant, make_tenant: MakeTenant) -> None:
        credential = await tenant.created()
        viewer = make_tenant("billing-viewer", tenant.organization)

        found = await viewer.get(f"{viewer.credentials}/{credential['id']}")

        assert found.json() == credential

    async def test_unknown_credential_is_not_found(self, tenant: Tenant) -> None:
        response = await tenant.get(f"{tenant.credentials}/{uuid4()}")

        assert (response.status_code, response.json()["code"]) == (404, "not_found")

    async def test_credential_of_another_organization_is_not_found(self, make_tenant: MakeTenant) -> None:
        credential = await make_tenant().created()
        tenant = make_tenant()

        response = await tenant.get(f"{tenant.credentials}/{credential['id']}")

        assert (response.status_code, response.json()["code"]) == (404, "not_found")

    async def test_etag_is_stable(self, tenant: Tenant) -> None:
        response = await tenant.create()

        again = [await tenant.get(response.headers["Location"]) for _ in range(2)]

        assert {found.headers["ETag"] for found in again} == {response.headers["ETag"]}
