"""Idempotency-Key: a repeated request is executed once, and every repetition gets the first response."""

import asyncio
from dataclasses import replace

import httpx
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.auth.principal import ROLES
from app.core.services import Services
from app.database.engine import Database
from app.database.unit_of_work import UnitsOfWork
from app.egress.anthropic import AnthropicClient
from tests.support.database.rows import change
from tests.support.fakes import FakeSecretStore
from tests.support.provider.fake_anthropic import FakeAnthropic
from tests.support.requests.idempotent import (
    REPLAYED_HEADER,
    list_credential_ids,
    new_body,
    post_with_idempotency_key,
)
from tests.support.service_builder import assemble, client_of
from tests.support.tenant import MakeTenant, MakeToken, Tenant


def assert_replay(again: httpx.Response, first: httpx.Response) -> None:
    assert again.headers[REPLAYED_HEADER] == "true"
    assert (again.status_code, again.content) == (first.status_code, first.content)
    for name in ("Content-Type", "Location", "ETag"):
        assert again.headers.get(name) == first.headers.get(name)


class TestSameRequest:
    async def test_repeated_gets_the_first_response(
        self, tenant: Tenant, fake_anthropic: FakeAnthropic
    ) -> None:
        body = new_body()
        first = await post_with_idempotency_key(tenant, body)
        await tenant.patch(first.headers["Location"], json={"label": "changed since"})

        again = await post_with_idempotency_key(tenant, body)

        assert first.status_code == 201
        assert REPLAYED_HEADER not in first.headers
        assert_replay(again, first)
        assert again.headers["X-Request-Id"] != first.headers["X-Request-Id"]
        assert len(fake_anthropic.requests_of(body["api_key"])) == 1

    async def test_sent_twenty_times_concurrently_creates_one_credential(
        self, tenant: Tenant, fake_anthropic: FakeAnthropic
    ) -> None:
        body = new_body()

        responses = await asyncio.gather(*(post_with_idempotency_key(tenant, body) for _ in range(20)))

        assert {a.status_code for a in responses} <= {201, 409}
        assert {a.json()["code"] for a in responses if a.status_code == 409} <= {"idempotency_in_progress"}
        assert {a.json()["id"] for a in responses if a.status_code == 201} == set(
            await list_credential_ids(tenant)
        )
        assert len(fake_anthropic.requests_of(body["api_key"])) == 1
        assert (await post_with_idempotency_key(tenant, body)).headers[REPLAYED_HEADER] == "true"

    async def test_for_a_validation_calls_the_provider_once(
        self, tenant: Tenant, fake_anthropic: FakeAnthropic
    ) -> None:
        body = new_body()
        url = f"{(await post_with_idempotency_key(tenant, body)).headers['Location']}/validations"

        first, again = [await tenant.post(url, headers={"Idempotency-Key": "validate"}) for _ in range(2)]

        assert_replay(again, first)
        assert len(fake_anthropic.requests_of(body["api_key"])) == 2

    async def test_without_the_header_is_a_new_request(self, tenant: Tenant) -> None:
        body = new_body()
        first = await post_with_idempotency_key(tenant, body)

        again = await tenant.post(tenant.credentials, json=body)

        assert (again.status_code, again.json()["code"]) == (409, "duplicate_key")
        assert again.json()["credential_id"] == first.json()["id"]

    async def test_of_another_organization_is_independent(self, make_tenant: MakeTenant) -> None:
        body = new_body()
        first, other = [await post_with_idempotency_key(make_tenant(), body) for _ in range(2)]

        assert (first.status_code, other.status_code) == (201, 201)
        assert first.json()["id"] != other.json()["id"]


class TestDifferentRequest:
    async def test_with_another_body_is_rejected(self, tenant: Tenant) -> None:
        body = new_body()
        await post_with_idempotency_key(tenant, body)

        for other in (new_body(), body | {"label": "Another"}):
            again = await post_with_idempotency_key(tenant, other)
            assert (again.status_code, again.json()["code"]) == (422, "idempotency_key_reused")
            (error,) = again.json()["errors"]
            assert (error["field"], error["code"]) == ("Idempotency-Key", "idempotency_key_reused")
            assert REPLAYED_HEADER not in again.headers

    async def test_on_another_path_is_rejected(self, tenant: Tenant) -> None:
        first = await post_with_idempotency_key(tenant, new_body())

        again = await tenant.post(
            f"{first.headers['Location']}/validations", headers={"Idempotency-Key": "once"}
        )

        assert (again.status_code, again.json()["code"]) == (422, "idempotency_key_reused")

    async def test_of_another_subject_is_rejected(self, tenant: Tenant, make_token: MakeToken) -> None:
        body = new_body()
        await post_with_idempotency_key(tenant, body)
        token = make_token("another-admin", tenant.organization, scopes=ROLES["billing-admin"])

        again = await post_with_idempotency_key(replace(tenant, token=token), body)

        assert (again.status_code, again.json()["code"]) == (422, "idempotency_key_reused")

    async def test_is_rejected_also_while_the_first_one_runs(
        self, tenant: Tenant, slow_provider: FakeAnthropic
    ) -> None:
        body = new_body("slow")
        first = asyncio.create_task(post_with_idempotency_key(tenant, body))
        await slow_provider.arrived.wait()

        same, other = (
            await post_with_idempotency_key(tenant, body),
            await post_with_idempotency_key(tenant, new_body()),
        )
        slow_provider.release.set()
        first_response = await first

        assert (same.status_code, same.json()["code"]) == (409, "idempotency_in_progress")
        assert REPLAYED_HEADER not in same.headers
        assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")
        assert_replay(await post_with_idempotency_key(tenant, body), first_response)


class TestStoredResponses:
    async def test_include_a_conflict(self, tenant: Tenant, superuser: AsyncEngine) -> None:
        body = new_body()
        holder = (await tenant.post(tenant.credentials, json=body)).json()
        first = await post_with_idempotency_key(tenant, body)
        await change(superuser, "DELETE FROM fingerprint_claim WHERE credential_id = :id", id=holder["id"])

        again = await post_with_idempotency_key(tenant, body)

        assert (first.status_code, first.json()["credential_id"]) == (409, holder["id"])
        assert_replay(again, first)

    async def test_do_not_include_invalid_input(self, tenant: Tenant) -> None:
        rejected = await post_with_idempotency_key(tenant, new_body() | {"api_key": "nonsense"})

        response = await post_with_idempotency_key(tenant, new_body())

        assert (rejected.status_code, response.status_code) == (422, 201)

    async def test_do_not_include_an_exceeded_rate_limit(
        self, tenant: Tenant, superuser: AsyncEngine
    ) -> None:
        body = new_body()
        await change(
            superuser,
            "INSERT INTO rate_counter SELECT :organization, 'credential_writes', minute, 60"
            " FROM generate_series(date_trunc('minute', now()), now() + interval '1 minute', '1 minute') minute",
            organization=tenant.organization,
        )
        rejected = await post_with_idempotency_key(tenant, body)
        await change(superuser, "DELETE FROM rate_counter WHERE organization_id = :o", o=tenant.organization)

        response = await post_with_idempotency_key(tenant, body)

        assert (rejected.status_code, response.status_code) == (429, 201)
        assert REPLAYED_HEADER not in response.headers

    async def test_do_not_include_an_outage(
        self, tenant: Tenant, services: Services, database: Database, prober: AnthropicClient
    ) -> None:
        store, body = FakeSecretStore(), new_body()
        parts = assemble(services, units=UnitsOfWork(database), store=store, prober=prober)
        async with client_of(parts) as client:
            client_tenant = replace(tenant, http=client)
            store.unavailable = True
            rejected = await post_with_idempotency_key(client_tenant, body)
            store.unavailable = False

            response = await post_with_idempotency_key(client_tenant, body)

        assert (rejected.status_code, response.status_code) == (503, 201)
        assert REPLAYED_HEADER not in response.headers


class TestHeader:
    @pytest.mark.parametrize("key", ["x", "x" * 255, "0199a2b4-c6d8-7e01-a2b3-c4d5e6f70819", 'a b;c="d"'])
    async def test_of_one_to_255_characters_is_accepted(self, tenant: Tenant, key: str) -> None:
        assert (await post_with_idempotency_key(tenant, new_body(), key=key)).status_code == 201

    @pytest.mark.parametrize("key", ["", "x" * 256])
    @pytest.mark.usefixtures("uncalled_provider")
    async def test_that_is_empty_or_longer_is_rejected(self, tenant: Tenant, key: str) -> None:
        response = await post_with_idempotency_key(tenant, new_body(), key=key)

        assert (response.status_code, response.json()["code"]) == (422, "validation_failed")
        assert [e["field"].lower() for e in response.json()["errors"]] == ["idempotency-key"]
