"""Idempotency-Key: the same request twice is done once and answered twice."""

import asyncio
from dataclasses import replace
from typing import Any

import httpx
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.auth.principal import ROLES
from app.core.services import Services
from app.database.engine import Database
from app.database.unit_of_work import UnitsOfWork
from app.egress.anthropic import AnthropicClient
from tests.assembly import assemble, client_of
from tests.conftest import MakeTenant, MakeToken, Tenant
from tests.fake_anthropic import FakeAnthropic, make_key
from tests.fakes import FakeSecretStore
from tests.rows import change

REPLAYED = "Idempotency-Replayed"


def new_body(behaviour: str = "valid") -> dict[str, Any]:
    return {"label": "Once", "api_key": make_key(behaviour)}


async def create(tenant: Tenant, body: Any, *, key: str = "once") -> httpx.Response:
    return await tenant.post(tenant.credentials, json=body, headers={"Idempotency-Key": key})


def assert_replay(again: httpx.Response, first: httpx.Response) -> None:
    assert again.headers[REPLAYED] == "true"
    assert (again.status_code, again.content) == (first.status_code, first.content)
    for name in ("Content-Type", "Location", "ETag"):
        assert again.headers.get(name) == first.headers.get(name)


async def listed(tenant: Tenant) -> list[str]:
    return [credential["id"] for credential in (await tenant.get(tenant.credentials)).json()["data"]]


class TestSameRequest:
    async def test_is_answered_again_with_the_first_answer(
        self, tenant: Tenant, fake_anthropic: FakeAnthropic
    ) -> None:
        body = new_body()
        first = await create(tenant, body)
        await tenant.patch(first.headers["Location"], json={"label": "changed since"})

        again = await create(tenant, body)

        assert first.status_code == 201
        assert REPLAYED not in first.headers
        assert_replay(again, first)
        assert again.headers["X-Request-Id"] != first.headers["X-Request-Id"]
        assert len(fake_anthropic.requests_of(body["api_key"])) == 1

    async def test_twenty_at_once_create_one(self, tenant: Tenant, fake_anthropic: FakeAnthropic) -> None:
        body = new_body()

        answers = await asyncio.gather(*(create(tenant, body) for _ in range(20)))

        assert {a.status_code for a in answers} <= {201, 409}
        assert {a.json()["code"] for a in answers if a.status_code == 409} <= {"idempotency_in_progress"}
        assert {a.json()["id"] for a in answers if a.status_code == 201} == set(await listed(tenant))
        assert len(fake_anthropic.requests_of(body["api_key"])) == 1
        assert (await create(tenant, body)).headers[REPLAYED] == "true"

    async def test_for_a_check_asks_the_provider_once(
        self, tenant: Tenant, fake_anthropic: FakeAnthropic
    ) -> None:
        body = new_body()
        url = f"{(await create(tenant, body)).headers['Location']}/validations"

        first, again = [await tenant.post(url, headers={"Idempotency-Key": "check"}) for _ in range(2)]

        assert_replay(again, first)
        assert len(fake_anthropic.requests_of(body["api_key"])) == 2

    async def test_without_the_header_is_another_request(self, tenant: Tenant) -> None:
        body = new_body()
        first = await create(tenant, body)

        again = await tenant.post(tenant.credentials, json=body)

        assert (again.status_code, again.json()["code"]) == (409, "duplicate_key")
        assert again.json()["credential_id"] == first.json()["id"]

    async def test_of_another_organization_has_nothing_to_do_with_it(self, make_tenant: MakeTenant) -> None:
        body = new_body()
        first, other = [await create(make_tenant(), body) for _ in range(2)]

        assert (first.status_code, other.status_code) == (201, 201)
        assert first.json()["id"] != other.json()["id"]


class TestOtherRequest:
    async def test_with_another_body_is_refused(self, tenant: Tenant) -> None:
        body = new_body()
        await create(tenant, body)

        for other in (new_body(), body | {"label": "Another"}):
            again = await create(tenant, other)
            assert (again.status_code, again.json()["code"]) == (422, "idempotency_key_reused")
            (error,) = again.json()["errors"]
            assert (error["field"], error["code"]) == ("Idempotency-Key", "idempotency_key_reused")
            assert REPLAYED not in again.headers

    async def test_on_another_path_is_refused(self, tenant: Tenant) -> None:
        first = await create(tenant, new_body())

        again = await tenant.post(
            f"{first.headers['Location']}/validations", headers={"Idempotency-Key": "once"}
        )

        assert (again.status_code, again.json()["code"]) == (422, "idempotency_key_reused")

    async def test_of_another_subject_is_refused(self, tenant: Tenant, make_token: MakeToken) -> None:
        body = new_body()
        await create(tenant, body)
        token = make_token("another-admin", tenant.organization, scopes=ROLES["billing-admin"])

        again = await create(replace(tenant, token=token), body)

        assert (again.status_code, again.json()["code"]) == (422, "idempotency_key_reused")

    async def test_is_refused_while_the_first_one_runs_too(
        self, tenant: Tenant, thinking_provider: FakeAnthropic
    ) -> None:
        body = new_body("slow")
        first = asyncio.create_task(create(tenant, body))
        await thinking_provider.arrived.wait()

        same, other = await create(tenant, body), await create(tenant, new_body())
        thinking_provider.release.set()
        answer = await first

        assert (same.status_code, same.json()["code"]) == (409, "idempotency_in_progress")
        assert REPLAYED not in same.headers
        assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")
        assert_replay(await create(tenant, body), answer)


class TestAnswersThatAreKept:
    async def test_conflict_is(self, tenant: Tenant, owner: AsyncEngine) -> None:
        body = new_body()
        holder = (await tenant.post(tenant.credentials, json=body)).json()
        first = await create(tenant, body)
        await change(owner, "DELETE FROM fingerprint_claim WHERE credential_id = :id", id=holder["id"])

        again = await create(tenant, body)

        assert (first.status_code, first.json()["credential_id"]) == (409, holder["id"])
        assert_replay(again, first)

    async def test_refusal_of_the_input_is_not(self, tenant: Tenant) -> None:
        refused = await create(tenant, new_body() | {"api_key": "nonsense"})

        response = await create(tenant, new_body())

        assert (refused.status_code, response.status_code) == (422, 201)

    async def test_refusal_for_haste_is_not(self, tenant: Tenant, owner: AsyncEngine) -> None:
        body = new_body()
        await change(
            owner,
            "INSERT INTO rate_counter SELECT :organization, 'credential_writes', minute, 60"
            " FROM generate_series(date_trunc('minute', now()), now() + interval '1 minute', '1 minute') minute",
            organization=tenant.organization,
        )
        refused = await create(tenant, body)
        await change(owner, "DELETE FROM rate_counter WHERE organization_id = :o", o=tenant.organization)

        response = await create(tenant, body)

        assert (refused.status_code, response.status_code) == (429, 201)
        assert REPLAYED not in response.headers

    async def test_outage_is_not(
        self, tenant: Tenant, services: Services, database: Database, prober: AnthropicClient
    ) -> None:
        store, body = FakeSecretStore(), new_body()
        parts = assemble(services, units=UnitsOfWork(database), store=store, prober=prober)
        async with client_of(parts) as client:
            client_tenant = replace(tenant, http=client)
            store.unavailable = True
            refused = await create(client_tenant, body)
            store.unavailable = False

            response = await create(client_tenant, body)

        assert (refused.status_code, response.status_code) == (503, 201)
        assert REPLAYED not in response.headers


class TestHeader:
    @pytest.mark.parametrize("key", ["x", "x" * 255, "0199a2b4-c6d8-7e01-a2b3-c4d5e6f70819", 'a b;c="d"'])
    async def test_of_one_to_255_characters_is_taken(self, tenant: Tenant, key: str) -> None:
        assert (await create(tenant, new_body(), key=key)).status_code == 201

    @pytest.mark.parametrize("key", ["", "x" * 256])
    @pytest.mark.usefixtures("unasked_provider")
    async def test_that_is_empty_or_longer_is_refused(self, tenant: Tenant, key: str) -> None:
        response = await create(tenant, new_body(), key=key)

        assert (response.status_code, response.json()["code"]) == (422, "validation_failed")
        assert [e["field"].lower() for e in response.json()["errors"]] == ["idempotency-key"]
