"""Keys for a provider of the customer's own: where they may be sent, and that they are sent nowhere else."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.core.services import Services
from app.database.engine import Database
from tests.api.far_provider import (
    ADDRESS,
    HOST,
    MIXED_HOST,
    NOWHERE,
    OTHER_ADDRESS,
    OTHER_HOST,
    PRIVATE_HOST,
    REFUSED_BY_DNS,
    REFUSED_BY_POLICY,
    SILENT_HOST,
    URL,
    FarWorld,
    far_world,
)
from tests.api.rotating import refusal
from tests.conftest import Tenant
from tests.fake_anthropic import FakeAnthropic, make_key, serve
from tests.integration.egress.far_side import AUTHORITY
from tests.rows import fetch
from tests.waiting import until

SHORT_KEY = "gw-42-valid"


@pytest.fixture
async def world(services: Services, database: Database, tmp_path: Path) -> AsyncIterator[FarWorld]:
    pem = tmp_path / "far.pem"
    AUTHORITY.issue_cert(HOST, OTHER_HOST).private_key_and_cert_chain_pem.write_to_path(str(pem))
    async with serve(certificate=pem) as far, far_world(services, database, far) as world:
        yield world


@pytest.fixture
def abroad(tenant: Tenant, world: FarWorld) -> Tenant:
    """An admin of that service."""
    return replace(tenant, http=world.http)


async def nothing_of(tenant: Tenant, owner: AsyncEngine) -> bool:
    tables = ("provider_credential", "credential_version", "fingerprint_claim", "job_queue", "audit_event")
    statement = " UNION ALL ".join(f"SELECT 1 FROM {table} WHERE organization_id = :o" for table in tables)
    return await fetch(owner, statement, o=tenant.organization) == []


class TestAccepted:
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
    async def test_url_is_shown_in_its_one_spelling(
        self, abroad: Tenant, entered: str, base_url: str
    ) -> None:
        credential = await abroad.created(base_url=entered)

        assert credential["base_url"] == base_url
        assert credential["messages_url"] == f"{base_url}/v1/messages"

    async def test_key_is_checked_there_and_nowhere_else(
        self, abroad: Tenant, world: FarWorld, fake_anthropic: FakeAnthropic
    ) -> None:
        key = make_key()

        credential = await abroad.created(base_url=URL, api_key=key)

        assert (credential["validation"]["status"], credential["validation"]["reason"]) == ("valid", "ok")
        (asked,) = world.provider.requests_of(key)
        assert (asked.method, asked.path, asked.complaints) == ("POST", "/v1/messages", ())
        assert fake_anthropic.requests_of(key) == []
        assert world.detour.dialled == [ADDRESS]

    async def test_name_is_looked_up_when_saved_and_again_when_dialled(
        self, abroad: Tenant, world: FarWorld
    ) -> None:
        await abroad.created(base_url=URL)

        assert world.resolver.asked == [HOST, HOST]

    async def test_refused_key_is_saved_as_invalid(self, abroad: Tenant) -> None:
        credential = await abroad.created("invalid", base_url=URL)

        assert (credential["validation"]["status"], credential["state"]) == ("invalid", "active")

    @pytest.mark.parametrize("nothing", ["", None])
    async def test_empty_url_is_none(self, tenant: Tenant, nothing: str | None) -> None:
        credential = await tenant.created(base_url=nothing)

        assert credential["base_url"] is None
        assert credential["validation"]["status"] == "valid"

    @pytest.mark.parametrize(
        ("host", "given", "style", "header"),
        [
            (HOST, None, "bearer", "authorization"),
            (OTHER_HOST, None, "x_api_key", "x-api-key"),
            (HOST, "x_api_key", "x_api_key", "x-api-key"),
            (OTHER_HOST, "bearer", "bearer", "authorization"),
        ],
    )
    async def test_key_travels_as_the_host_or_the_admin_wants_it(
        self, abroad: Tenant, world: FarWorld, host: str, given: str | None, style: str, header: str
    ) -> None:
        key = make_key()

        credential = await abroad.created(base_url=f"https://{host}", auth_style=given, api_key=key)

        assert credential["auth_style"] == style
        (asked,) = world.provider.requests_of(key)
        assert asked.credential_header == header
        assert world.detour.dialled == [ADDRESS if host == HOST else OTHER_ADDRESS]

    async def test_workspace_and_model_go_with_the_question(self, abroad: Tenant, world: FarWorld) -> None:
        key = make_key()

        credential = await abroad.created(
            base_url=URL, workspace_id="wrkspc_1", probe_model="claude-none-such", api_key=key
        )

        assert (credential["workspace_id"], credential["probe_model"]) == ("wrkspc_1", "claude-none-such")
        assert credential["validation"]["reason"] == "model_not_found"
        (asked,) = world.provider.requests_of(key)
        assert asked.shown_headers["anthropic-workspace-id"] == "wrkspc_1"

    @pytest.mark.parametrize("key", [SHORT_KEY, "sk-or-v1-0123456789abcdef-valid", "x" * 506 + "-valid"])
    async def test_key_of_another_shape_is_allowed(self, abroad: Tenant, key: str) -> None:
        credential = await abroad.created(base_url=URL, api_key=key)

        assert credential["validation"]["status"] == "valid"
        assert (credential["key_hint"] is None) is (len(key) < 40)
        assert key not in str(credential)


class TestRefused:
    @pytest.mark.parametrize(("url", "reason"), (REFUSED_BY_POLICY | REFUSED_BY_DNS).items())
    async def test_url_is_named_with_its_reason_and_nothing_is_saved(
        self, abroad: Tenant, world: FarWorld, owner: AsyncEngine, url: str, reason: str
    ) -> None:
        response = await abroad.create(base_url=url)

        assert (response.status_code, response.json()["code"]) == (422, reason)
        (error,) = response.json()["errors"]
        assert (error["field"], error["code"]) == ("base_url", reason)
        assert not [part for part in ("hunter2", "10.1.2.3", "127.0.0.1") if part in response.text]
        assert await nothing_of(abroad, owner)
        assert world.detour.dialled == []

    @pytest.mark.parametrize("url", REFUSED_BY_POLICY)
    async def test_what_the_policy_refuses_is_not_looked_up(
        self, abroad: Tenant, world: FarWorld, url: str
    ) -> None:
        await abroad.create(base_url=url)

        assert world.resolver.asked == []

    async def test_unanswered_look_up_is_worth_repeating_and_saves_nothing(
        self, abroad: Tenant, world: FarWorld, owner: AsyncEngine
    ) -> None:
        response = await abroad.create(base_url=f"https://{SILENT_HOST}")

        assert (response.status_code, response.json()["code"]) == (503, "dns_unavailable")
        assert int(response.headers["Retry-After"]) > 0
        assert await nothing_of(abroad, owner)
        assert world.detour.dialled == []

    @pytest.mark.parametrize(
        ("key", "code"),
        [
            ("", "key_empty"),
            ("x" * 513, "key_too_long"),
            (f" {SHORT_KEY}", "key_has_whitespace"),
            (f"{SHORT_KEY}\n", "key_has_whitespace"),
            ("gw\x00key", "key_malformed"),
            ("gw-schlüssel", "key_malformed"),
            ("sk-ant-admin01-0123456789abcdefghij", "admin_key"),
            ("sk-ant-oat01-0123456789abcdefghij", "oauth_token"),
            ("sk-ant-sid01-0123456789abcdefghij", "session_key"),
        ],
    )
    async def test_what_cannot_be_a_key_anywhere_is_refused_here_too(
        self, abroad: Tenant, world: FarWorld, key: str, code: str
    ) -> None:
        response = await abroad.create(base_url=URL, api_key=key)

        assert (response.status_code, response.json()["code"]) == (422, code)
        assert (world.resolver.asked, world.detour.dialled) == ([], [])

    @pytest.mark.parametrize("base_url", [None, ""])
    async def test_key_of_another_shape_needs_a_url(self, tenant: Tenant, base_url: str | None) -> None:
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
    async def test_destination_is_not_changed_by_a_patch(
        self, abroad: Tenant, fields: dict[str, Any]
    ) -> None:
        credential = await abroad.created(base_url=URL)

        response = await abroad.patch(f"{abroad.credentials}/{credential['id']}", json=fields)

        assert (response.status_code, response.json()["code"]) == (422, "destination_is_bound")


async def _count(asked: list[str]) -> int:
    return len(asked)


class TestRebound:
    """A host that was public when it was saved and is not when it is called."""

    async def test_host_is_not_dialled(self, abroad: Tenant, world: FarWorld) -> None:
        world.resolver._answers[HOST] = [[ADDRESS], ["169.254.169.254"]]

        credential = await abroad.created(base_url=URL)

        assert credential["validation"]["reason"] == "address_refused"
        assert world.detour.dialled == []

    async def test_host_that_cannot_be_looked_up_then_says_nothing_of_the_key(
        self, abroad: Tenant, world: FarWorld
    ) -> None:
        world.resolver._answers[HOST] = [[ADDRESS], None]

        credential = await abroad.created(base_url=URL)

        verdict = credential["validation"]
        assert (verdict["status"], verdict["reason"]) == ("indeterminate", "dns_unavailable")


class TestRotation:
    async def test_that_was_overtaken_brings_no_old_destination_back(
        self, abroad: Tenant, world: FarWorld
    ) -> None:
        credential = await abroad.created(base_url=URL)
        path = f"{abroad.credentials}/{credential['id']}"
        looks = len(world.resolver.asked)
        world.resolver.held[HOST] = asyncio.Event()
        slow_key = make_key()

        # It keeps the host of the version in use, and waits for that host's name server.
        slow = asyncio.create_task(
            abroad.post(f"{path}/rotations", json={"api_key": slow_key, "activate": "immediately"})
        )
        await until(lambda: _count(world.resolver.asked), lambda asked: asked > looks)
        there = {"api_key": make_key(), "base_url": None, "activate": "immediately"}
        moved = await abroad.post(f"{path}/rotations", json=there)
        world.resolver.held.pop(HOST).set()

        assert moved.json()["state"] == "activated"
        assert refusal(await slow) == (409, "rotation_in_progress")
        assert (await abroad.get(path)).json()["base_url"] is None
        assert world.provider.requests_of(slow_key) == []

    @pytest.mark.parametrize("path", ["", "/anthropic", "/v1/v1"])
    async def test_keeps_the_destination_to_the_letter(self, abroad: Tenant, path: str) -> None:
        before = await abroad.created(base_url=URL + path, auth_style="x_api_key")

        await abroad.post(
            f"{abroad.credentials}/{before['id']}/rotations",
            json={"api_key": SHORT_KEY, "activate": "immediately"},
        )

        after = (await abroad.get(f"{abroad.credentials}/{before['id']}")).json()
        assert after["key_version"] == 2
        for name in ("base_url", "messages_url", "auth_style"):
            assert after[name] == before[name]

    async def test_to_another_host_chooses_the_style_anew(self, abroad: Tenant, world: FarWorld) -> None:
        path = f"{abroad.credentials}/{(await abroad.created(base_url=URL))['id']}"

        response = await abroad.post(
            f"{path}/rotations", json={"api_key": make_key(), "base_url": f"https://{OTHER_HOST}"}
        )

        assert response.json()["state"] == "activated"
        after = (await abroad.get(path)).json()
        assert (after["base_url"], after["auth_style"]) == (f"https://{OTHER_HOST}", "x_api_key")
        assert world.detour.dialled == [ADDRESS, OTHER_ADDRESS]

    @pytest.mark.parametrize(
        ("host", "status", "code"),
        [
            (PRIVATE_HOST, 422, "dns_private_address"),
            (MIXED_HOST, 422, "dns_private_address"),
            (NOWHERE, 422, "dns_no_records"),
            (SILENT_HOST, 503, "dns_unavailable"),
        ],
    )
    async def test_to_a_host_that_leads_nowhere_good_changes_nothing(
        self, abroad: Tenant, host: str, status: int, code: str
    ) -> None:
        created = await abroad.create(base_url=URL)
        path = created.headers["Location"]

        response = await abroad.post(
            f"{path}/rotations", json={"api_key": make_key(), "base_url": f"https://{host}"}
        )

        assert (response.status_code, response.json()["code"]) == (status, code)
        assert (await abroad.get(path)).json() == created.json()

    async def test_rollback_brings_the_old_destination_back(self, abroad: Tenant) -> None:
        before = await abroad.created(base_url=URL)
        path = f"{abroad.credentials}/{before['id']}"
        await abroad.post(
            f"{path}/rotations", json={"api_key": make_key(), "base_url": f"https://{OTHER_HOST}"}
        )

        after = (await abroad.post(f"{path}/rollback")).json()

        for name in ("key_version", "base_url", "messages_url", "auth_style", "fingerprint"):
            assert after[name] == before[name]
