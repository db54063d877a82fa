"""The trail: who did what to which credential, for good."""

from datetime import datetime, timedelta
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import asyncpg
import pytest
import sqlalchemy as sa

from app.auth.principal import Caller
from app.core.errors import DatabaseUnavailable
from app.core.services import Services
from app.credentials.service import CredentialService
from app.database.engine import Database, Query
from app.validation.runner import ValidationRunner
from tests.assembly import assemble
from tests.conftest import MakeTenant, MakeToken, Tenant
from tests.fake_anthropic import FakeAnthropic, make_key
from tests.fakes import FakeSecretStore
from tests.interruptions import ApprovingProber, InterruptedUnits, outage


async def trail(tenant: Tenant, **query: Any) -> list[dict[str, Any]]:
    response = await tenant.get(f"{tenant.path}/audit-events", params=query)
    assert response.status_code == 200, response.text
    events: list[dict[str, Any]] = response.json()["data"]
    return events


class TestEvents:
    async def test_say_who_did_what_in_which_request(self, tenant: Tenant) -> None:
        created = await tenant.create()
        path, credential_id = created.headers["Location"], created.json()["id"]
        renamed = await tenant.patch(path, json={"label": "Acme EU"})
        checked = await tenant.post(f"{path}/validations")

        events = await trail(tenant)

        assert [(event["action"], event["request_id"]) for event in events] == [
            ("credential.validated", checked.headers["X-Request-Id"]),
            ("credential.renamed", renamed.headers["X-Request-Id"]),
            ("credential.validated", created.headers["X-Request-Id"]),
            ("credential.created", created.headers["X-Request-Id"]),
        ]
        assert {event["actor"] for event in events} == {"billing-admin@example.com"}
        assert {event["credential_id"] for event in events} == {credential_id}
        times = [event["occurred_at"] for event in events]
        assert times == sorted(times, reverse=True)
        assert all(time.endswith("Z") and datetime.fromisoformat(time) for time in times)

    async def test_tell_facts_and_the_hint_but_not_the_key(self, tenant: Tenant) -> None:
        key = make_key("invalid")
        credential = await tenant.created(api_key=key)

        checked, created = await trail(tenant)

        assert created["details"] == {"key_version": 1, "key_hint": credential["key_hint"]}
        assert checked["details"] == {
            "key_version": 1,
            "status": "invalid",
            "reason": "invalid_key",
            "trigger": "save",
        }
        assert key[16:24] not in str((checked, created))

    async def test_are_not_written_for_what_did_not_happen(self, tenant: Tenant) -> None:
        created = await tenant.create()
        path, key = created.headers["Location"], make_key()
        before = await trail(tenant)

        await tenant.patch(path, json={})
        await tenant.patch(path, json={"label": created.json()["label"]})
        await tenant.patch(path, json={"label": "x"}, headers={"If-Match": '"r0"'})
        await tenant.patch(path, json={"label": key})
        await tenant.post(tenant.credentials, json={"label": "x", "api_key": f"{key} "})
        await tenant.post(f"{tenant.credentials}/{uuid4()}/validations")

        assert await trail(tenant) == before

    async def test_of_a_check_that_was_joined_are_one(
        self, tenant: Tenant, services: Services, thinking_provider: FakeAnthropic
    ) -> None:
        created = await tenant.create("slow", headers={"Prefer": "respond-async"})
        await tenant.post(f"{created.headers['Location']}/validations", headers={"Prefer": "respond-async"})
        thinking_provider.release.set()
        await services[ValidationRunner].close()

        assert [event["action"] for event in await trail(tenant)] == [
            "credential.validated",
            "credential.created",
        ]


class TestReading:
    async def test_filters_narrow_it(self, tenant: Tenant) -> None:
        first, second = await tenant.created(), await tenant.created()
        await tenant.patch(f"{tenant.credentials}/{second['id']}", json={"label": "x"})

        by_credential = await trail(tenant, credential_id=first["id"])
        by_action = await trail(tenant, action="credential.renamed")
        by_both = await trail(tenant, credential_id=first["id"], action="credential.renamed")
        by_actor = await trail(tenant, actor="billing-admin@example.com")

        assert {event["credential_id"] for event in by_credential} == {first["id"]}
        assert [event["credential_id"] for event in by_action] == [second["id"]]
        assert by_both == []
        assert by_actor == await trail(tenant)
        assert await trail(tenant, actor="somebody-else") == []

    async def test_times_bound_it_from_the_first_inclusive_to_the_last_exclusive(
        self, tenant: Tenant
    ) -> None:
        await tenant.created()
        newest, oldest = await trail(tenant)

        assert await trail(tenant, starting_at=newest["occurred_at"]) == [newest]
        assert await trail(tenant, ending_at=newest["occurred_at"]) == [oldest]
        berlin = datetime.fromisoformat(newest["occurred_at"]) + timedelta(hours=1)
        same_instant = berlin.strftime("%Y-%m-%dT%H:%M:%S.%f+01:00")
        assert await trail(tenant, starting_at=same_instant) == [newest]

    async def test_comes_in_pages(self, tenant: Tenant) -> None:
        await tenant.created()
        await tenant.created()
        url, whole = f"{tenant.path}/audit-events", await trail(tenant)

        first = (await tenant.get(url, params={"limit": 3})).json()
        last = (await tenant.get(url, params={"limit": 3, "page": first["next_page"]})).json()

        assert first["data"] + last["data"] == whole
        assert (len(first["data"]), last["has_more"], last["next_page"]) == (3, False, None)

    async def test_needs_its_own_scope(self, tenant: Tenant, make_token: MakeToken) -> None:
        token = make_token("ci", tenant.organization, scopes=["credentials:read", "credentials:write"])

        response = await tenant.http.get(
            f"{tenant.path}/audit-events", headers={"Authorization": f"Bearer {token}"}
        )

        assert (response.status_code, response.json()["code"]) == (403, "insufficient_scope")

    async def test_shows_nothing_of_other_organizations(self, make_tenant: MakeTenant) -> None:
        credential = await make_tenant().created()

        assert await trail(make_tenant()) == []
        assert await trail(make_tenant(), credential_id=credential["id"]) == []

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("credential_id", "x"),
            ("action", "credential.stolen"),
            ("actor", ""),
            ("actor", "x" * 256),
            ("starting_at", "yesterday"),
            ("starting_at", "2026-11-23"),
            ("ending_at", "2026-11-23T00:00:00"),
        ],
    )
    async def test_filter_that_makes_no_sense_is_refused(
        self, tenant: Tenant, field: str, value: str
    ) -> None:
        response = await tenant.get(f"{tenant.path}/audit-events", params={field: value})

        assert response.status_code == 422
        assert [error["field"] for error in response.json()["errors"]] == [field]

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("actor", "\0"),
            ("actor", "a\0b"),
            ("starting_at", "0001-01-01T00:00:00+23:59"),
            ("ending_at", "9999-12-31T23:59:59-23:59"),
        ],
    )
    async def test_filter_that_the_database_cannot_hold_is_no_outage(
        self, tenant: Tenant, field: str, value: str
    ) -> None:
        response = await tenant.get(f"{tenant.path}/audit-events?{field}={quote(value)}")

        assert response.status_code in {200, 422}


class TestAppendOnly:
    @pytest.mark.parametrize(
        "statement",
        ["UPDATE audit_event SET actor = 'nobody'", "DELETE FROM audit_event", "TRUNCATE audit_event"],
    )
    async def test_for_the_services_role(self, tenant: Tenant, database: Database, statement: str) -> None:
        await tenant.created()

        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            async with database.session(tenant.organization) as session:
                await session.execute(Query(sa.text(statement)))

        assert len(await trail(tenant)) == 2


class TestOneTransaction:
    async def test_with_the_change_so_neither_is_without_the_other(
        self, tenant: Tenant, services: Services, database: Database
    ) -> None:
        credential = await tenant.created()
        before = await trail(tenant)
        caller = Caller(subject="ada", organization_id=tenant.organization, request_id="req_x")
        course = outage(2, lasts=False)  # the first step opens the transaction, the second commits it
        parts = assemble(
            services,
            units=InterruptedUnits(database, course),
            store=FakeSecretStore(),
            prober=ApprovingProber(),
        )

        with pytest.raises(DatabaseUnavailable):
            await parts[CredentialService].rename(caller, credential["id"], "changed", revisions=None)

        assert course.steps == 2
        assert await trail(tenant) == before
        found = await tenant.get(f"{tenant.credentials}/{credential['id']}")
        assert found.json() == credential
