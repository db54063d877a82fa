"""Who pays, whether the key is valid, whether the limits have room: decided before anything is sent."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.core.organizations import OPERATOR_ORGANIZATION
from tests.support.database.rows import fetch
from tests.support.polling import resolved, until
from tests.support.provider.fake_anthropic import make_key
from tests.support.relay.relay_service import RelayUser, WithSettings, error_of, request
from tests.support.relay.scripted_provider import MODEL, USAGE, Exchange, error, events, message, stream
from tests.support.relay.stuck_client import StuckClient
from tests.support.tenant import MakeToken

MONEY = {"amount": "10", "currency": "USD"}


class TestReadiness:
    @pytest.mark.parametrize(
        ("prepare", "blocker"),
        [
            ("nothing", "credential_missing"),
            ("disable", "credential_disabled"),
            ("delete", "credential_deleted"),
            ("invalidate", "credential_not_valid"),
        ],
    )
    async def test_is_required(self, user: RelayUser, prepare: str, blocker: str) -> None:
        before = len(user.provider.messages())
        key = make_key()
        credential = await user.save_key(api_key=key)
        path = f"{user.admin.credentials}/{credential['id']}"
        if prepare == "nothing":
            await user.use(None)
        elif prepare == "disable":
            await user.admin.post(f"{path}/disable")
        elif prepare == "delete":
            await user.admin.request("DELETE", f"{path}?force=true")
        else:
            user.provider.refused_keys.add(key)
            await user.admin.post(f"{path}/validations")

        for response in (await user.send(), await user.send(path="/v1/messages/count_tokens")):
            assert error_of(response) == (403, "permission_error", "not_ready")
            assert response.json()["error"]["details"]["blockers"] == [blocker]
        assert len(user.provider.messages()) == before
        assert await user.events() == []


class TestLimits:
    async def test_a_limit_without_room_is_402(self, user: RelayUser) -> None:
        limit = await user.create_limit("0.000001")
        before = len(user.provider.messages())

        response = await user.send()

        assert error_of(response) == (402, "billing_error", "spend_limit_exceeded")
        details = response.json()["error"]["details"]
        assert (details["limit_id"], details["limit_name"]) == (limit["id"], "Budget")
        assert details["reason"] == "limit_reached"
        assert response.headers["x-should-retry"] == "false"
        assert len(user.provider.messages()) == before

    async def test_reserves_at_the_organizations_own_prices(
        self, user: RelayUser, make_token: MakeToken
    ) -> None:
        service = replace(user.admin, token=make_token("service", scopes=["billing:write"]))
        await user.create_limit("0.5")
        assert (await user.send()).status_code == 200
        prices = {"usd_per_million_tokens": {"uncached_input": "9999", "output": "9999"}}
        overrides = await service.request(
            "PUT", f"{user.admin.path}/price-overrides", json={"overrides": [{"model": MODEL, **prices}]}
        )
        assert overrides.status_code == 200, overrides.text

        assert error_of(await user.send()) == (402, "billing_error", "spend_limit_exceeded")

    async def test_a_model_without_a_price_is_402_if_a_limit_blocks(self, user: RelayUser) -> None:
        assert (await user.send(request(model="unpriced-model"))).status_code == 200
        await user.create_limit("100")

        response = await user.send(request(model="unpriced-model"))

        assert error_of(response)[:2] == (402, "billing_error")
        assert response.json()["error"]["details"]["reason"] == "price_unknown"

    async def test_spend_is_reserved_while_the_call_runs_and_settled_after_it(self, user: RelayUser) -> None:
        limit = await user.create_limit("100")
        release = asyncio.Event()

        async def wait(exchange: Exchange) -> None:
            await release.wait()
            await exchange.respond(200, message())

        sending = asyncio.create_task(user.send(headers=user.provider.script("reserve", wait)))
        await user.provider.nth("reserve")
        during = await user.limit(limit["id"])
        release.set()
        await sending
        await user.events()
        after = await user.limit(limit["id"])

        assert float(during["reserved"]["amount"]) > 0 == float(during["spent"]["amount"])
        assert float(after["spent"]["amount"]) > 0 == float(after["reserved"]["amount"])


class TestManaged:
    @pytest.fixture
    async def operator(self, user: RelayUser, make_token: MakeToken) -> RelayUser:
        """The operator, who keeps a key as the reserved organization."""
        token = make_token(
            "service", scopes=["credentials:write", "credentials:read", "billing:write", "billing:read"]
        )
        return replace(user, admin=replace(user.admin, organization=OPERATOR_ORGANIZATION, token=token))

    async def subscribe(self, user: RelayUser, make_token: MakeToken) -> None:
        service = replace(user.admin, token=make_token("service", scopes=["billing:write"]))
        body = {
            "plan": "production",
            "monthly_fee": MONEY,
            "included_endpoints": 1,
            "endpoint_overage_fee": MONEY,
        }
        put = await service.request("PUT", f"{user.admin.path}/subscription", json=body)
        assert put.status_code == 200, put.text

    async def test_needs_a_subscription_and_the_setting(
        self, make_relay_user: Callable[[], RelayUser], with_settings: WithSettings, make_token: MakeToken
    ) -> None:
        managed = make_relay_user()

        unknown = await managed.send()
        await self.subscribe(managed, make_token)
        async with with_settings(managed, managed=False) as off:
            switched_off = await off.send()

        for response in (unknown, switched_off):
            assert error_of(response) == (403, "permission_error", "managed_not_enabled")

    async def test_uses_the_operators_key_and_bills_the_organization(
        self, make_relay_user: Callable[[], RelayUser], operator: RelayUser, make_token: MakeToken
    ) -> None:
        managed, key = make_relay_user(), make_key()
        await self.subscribe(managed, make_token)
        await operator.save_key(api_key=key)

        async def reply(exchange: Exchange) -> None:
            await exchange.respond(200, message(), {"anthropic-organization-id": "org_of_operator"})

        response = await managed.send(headers=managed.provider.script("managed", reply))

        assert response.status_code == 200, response.text
        assert "anthropic-organization-id" not in response.headers
        assert (await managed.provider.nth("managed")).key == key
        found = await managed.only_event()
        assert (found["usage_mode"], found["credential_id"]) == ("managed", None)
        assert float(found["billed_cost"]["amount"]) > 0
        assert (await managed.send(path="/v1/messages/count_tokens")).status_code == 200

    async def test_what_the_operator_pays_is_read_to_its_end(
        self, make_relay_user: Callable[[], RelayUser], operator: RelayUser, make_token: MakeToken
    ) -> None:
        managed = make_relay_user()
        await self.subscribe(managed, make_token)
        await operator.save_key()
        release = asyncio.Event()

        async def wait(exchange: Exchange) -> None:
            await release.wait()
            await exchange.respond(200, message())

        sending = asyncio.create_task(managed.send(headers=managed.provider.script("detached", wait)))
        await managed.provider.nth("detached")
        sending.cancel()
        capacity = managed.relay.services.capacity
        await until(lambda: resolved(capacity._detached), lambda it: it == 1)
        release.set()
        await until(lambda: resolved(capacity.open_requests), lambda it: it == 0)

        found = await managed.only_event()
        assert (found["outcome"], found["usage_source"]) == ("aborted", "reported")
        assert found["output_tokens"] == USAGE["output_tokens"]
        assert capacity._detached == 0

    async def test_a_client_that_leaves_after_the_end_takes_no_place(
        self, make_relay_user: Callable[[], RelayUser], operator: RelayUser, make_token: MakeToken
    ) -> None:
        managed = make_relay_user()
        await self.subscribe(managed, make_token)
        await operator.save_key()

        async def cut(exchange: Exchange) -> None:
            await stream(exchange, events("Hel", is_complete=False), is_ended=False)
            exchange.cut()

        client = StuckClient(managed, managed.provider.script("cut-managed", cut))
        serving = asyncio.create_task(client.request())
        async with asyncio.timeout(10):
            await client.is_stuck.wait()
        client.leaves.set()
        await serving

        assert (await managed.only_event())["outcome"] == "failed"
        assert managed.relay.services.capacity._detached == 0

    async def test_byo_never_falls_back_to_the_operator(
        self, user: RelayUser, operator: RelayUser, make_token: MakeToken
    ) -> None:
        await self.subscribe(user, make_token)
        await operator.save_key()
        await user.use(None)

        assert error_of(await user.send()) == (403, "permission_error", "not_ready")


class TestSmallRequests:
    async def test_have_no_event_and_pass_their_parameters(self, user: RelayUser) -> None:
        counted = await user.send(path="/v1/messages/count_tokens?beta=true&other=1")
        get = user.admin.http.get
        listed = await get(
            "/relay/anthropic/v1/models?limit=5&after_id=a%2Fb&lifecycle[]=active&x=1", headers=user.headers()
        )
        one = await get(f"/relay/anthropic/v1/models/{MODEL}", headers=user.headers())

        assert counted.json() == {"input_tokens": 7}
        assert listed.json()["data"][0]["id"] == one.json()["id"] == MODEL
        targets = [it.target for it in user.provider.exchanges[-3:]]
        assert targets == [
            "/v1/messages/count_tokens?beta=true",
            "/v1/models?limit=5&after_id=a%2Fb&lifecycle[]=active",
            f"/v1/models/{MODEL}",
        ]
        assert await user.events() == []


class TestRefusedKey:
    async def test_a_401_passes_and_queues_one_validation(
        self, user: RelayUser, superuser: AsyncEngine
    ) -> None:
        key = make_key()
        credential = await user.save_key(api_key=key)
        (periodic,) = await queued_validations(superuser, credential["id"])
        user.provider.refused_keys.add(key)

        responses = [await user.send() for _ in range(3)]

        assert {it.status_code for it in responses} == {401}
        assert responses[0].json() == error("authentication_error", "API key is invalid.")
        assert responses[0].headers["byok-error-source"] == "provider"
        await user.relay.services.key_reports.reported()
        read = await user.admin.get(f"{user.admin.credentials}/{credential['id']}")
        assert read.json()["validation"]["status"] == "valid"  # only a validation decides
        (queued,) = await queued_validations(superuser, credential["id"])
        assert queued["due_at"] < periodic["due_at"]
        checked_at = datetime.fromisoformat(read.json()["validation"]["latest"]["checked_at"])
        assert timedelta(0) <= queued["due_at"] - checked_at <= timedelta(minutes=1)

    async def test_a_403_queues_none(self, user: RelayUser, superuser: AsyncEngine) -> None:
        credential = await user.save_key()
        before = await queued_validations(superuser, credential["id"])

        async def refuse(exchange: Exchange) -> None:
            await exchange.respond(403, error("permission_error", "Not allowed."))

        response = await user.send(headers=user.provider.script("forbidden", refuse))

        assert response.status_code == 403
        await user.relay.services.key_reports.reported()
        assert await queued_validations(superuser, credential["id"]) == before


async def queued_validations(superuser: AsyncEngine, credential_id: str) -> list[dict[str, Any]]:
    return await fetch(
        superuser,
        "SELECT due_at FROM job_queue WHERE kind = 'revalidate' AND id = :id",
        id=credential_id,
    )
