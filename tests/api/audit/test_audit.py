"""The audit log: what it records, listing, and that it is append-only."""

from datetime import datetime, timedelta
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import asyncpg
import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from app.auth.principal import Caller
from app.core.errors import DatabaseUnavailable
from app.core.services import Services
from app.credentials.service import CredentialService
from app.database.engine import Database
from app.database.statements import Query
from app.validation.runner import ValidationRunner
from tests.support.database.rows import change
from tests.support.fakes import FakeSecretStore
from tests.support.fault_injection import ApprovingProber, FaultInjectingUnitsOfWork, outage
from tests.support.provider.fake_anthropic import FakeAnthropic, make_key
from tests.support.service_builder import assemble
from tests.support.tenant import MakeTenant, MakeToken, Tenant


async def list_events(tenant: Tenant, **query: Any) -> list[dict[str, Any]]:
    response = await tenant.get(f"{tenant.path}/audit-events", params=query)
    assert response.status_code == 200, response.text
    events: list[dict[str, Any]] = response.json()["data"]
    return events


class TestActionOfALaterRelease:
    async def test_is_listed_as_it_is(self, tenant: Tenant, superuser: AsyncEngine) -> None:
        await tenant.create()
        await change(
            superuser,
            "UPDATE audit_event SET action = 'credential.teleported'"
            " WHERE organization_id = :organization_id AND action = 'credential.created'",
            organization_id=tenant.organization,
        )

        events = await list_events(tenant)

        assert [event["action"] for event in events] == ["credential.validated", "credential.teleported"]


class TestRecord:
    async def test_has_actor_credential_and_request(self, tenant: Tenant) -> None:
        created = await tenant.create()
        path, credential_id = created.headers["Location"], created.json()["id"]
        renamed = await tenant.patch(path, json={"label": "Acme EU"})
        validated = await tenant.post(f"{path}/validations")

        events = await list_events(tenant)

        assert [(event["action"], event["request_id"]) for event in events] == [
            ("credential.validated", validated.headers["X-Request-Id"]),
            ("credential.renamed", renamed.headers["X-Request-Id"]),
            ("credential.validated", created.headers["X-Request-Id"]),
            ("credential.created", created.headers["X-Request-Id"]),
        ]
        assert {event["actor"] for event in events} == {"billing-admin@example.com"}
        assert {event["credential_id"] for event in events} == {credential_id}
        times = [event["occurred_at"] for event in events]
        assert times == sorted(times, reverse=True)
        assert all(time.endswith("Z") and datetime.fromisoformat(time) for time in times)

    async def test_has_details_and_the_hint_but_not_the_key(self, tenant: Tenant) -> None:
        key = make_key("invalid")
        credential = await tenant.created(api_key=key)

        validated, created = await list_events(tenant)

        assert created["details"] == {"key_version": 1, "key_hint": credential["key_hint"]}
        assert validated["details"] == {
            "key_version": 1,
            "status": "invalid",
            "reason": "invalid_key",
            "trigger": "save",
        }
        assert key[16:24] not in str((validated, created))

    async def test_omits_rejected_and_empty_changes(self, tenant: Tenant) -> None:
        created = await tenant.create()
        path, key = created.headers["Location"], make_key()
        before = await list_events(tenant)

        await tenant.patch(path, json={})
        await tenant.patch(path, json={"label": created.json()["label"]})
        await tenant.patch(path, json={"label": "x"}, headers={"If-Match": '"r0"'})
        await tenant.patch(path, json={"label": key})
        await tenant.post(tenant.credentials, json={"label": "x", "api_key": f"{key} "})
        await tenant.post(f"{tenant.credentials}/{uuid4()}/validations")

        assert await list_events(tenant) == before

    async def test_has_one_event_for_a_joined_validation(
        self, tenant: Tenant, services: Services, slow_provider: FakeAnthropic
    ) -> None:
        created = await tenant.create("slow", headers={"Prefer": "respond-async"})
        await tenant.post(f"{created.headers['Location']}/validations", headers={"Prefer": "respond-async"})
        slow_provider.release.set()
        await services[ValidationRunner].close()

        assert [event["action"] for event in await list_events(tenant)] == [
            "credential.validated",
            "credential.created",
        ]


class TestList:
    async def test_applies_filters(self, tenant: Tenant) -> None:
        first, second = await tenant.created(), await tenant.created()
        await tenant.patch(f"{tenant.credentials}/{second['id']}", json={"label": "x"})

        by_credential = await list_events(tenant, credential_id=first["id"])
        by_action = await list_events(tenant, action="credential.renamed")
        by_both = await list_events(tenant, credential_id=first["id"], action="credential.renamed")
        by_actor = await list_events(tenant, actor="billing-admin@example.com")

        assert {event["credential_id"] for event in by_credential} == {first["id"]}
        assert [event["credential_id"] for event in by_action] == [second["id"]]
        assert by_both == []
        assert by_actor == await list_events(tenant)
        assert await list_events(tenant, actor="another-actor") == []

    async def test_includes_the_start_and_excludes_the_end(self, tenant: Tenant) -> None:
        await tenant.created()
        newest, oldest = await list_events(tenant)

        assert await list_events(tenant, starting_at=newest["occurred_at"]) == [newest]
        assert await list_events(tenant, ending_at=newest["occurred_at"]) == [oldest]
        in_another_zone = datetime.fromisoformat(newest["occurred_at"]) + timedelta(hours=1)
        same_instant = in_another_zone.strftime("%Y-%m-%dT%H:%M:%S.%f+01:00")
        assert await list_events(tenant, starting_at=same_instant) == [newest]

    async def test_returns_pages(self, tenant: Tenant) -> None:
        await tenant.created()
        await tenant.created()
        url, all_events = f"{tenant.path}/audit-events", await list_events(tenant)

        first = (await tenant.get(url, params={"limit": 3})).json()
        last = (await tenant.get(url, params={"limit": 3, "page": first["next_page"]})).json()

        assert first["data"] + last["data"] == all_events
        assert (len(first["data"]), last["has_more"], last["next_page"]) == (3, False, None)

    async def test_requires_its_own_scope(self, tenant: Tenant, make_token: MakeToken) -> None:
        token = make_token("ci", tenant.organization, scopes=["credentials:read", "credentials:write"])

        response = await tenant.http.get(
            f"{tenant.path}/audit-events", headers={"Authorization": f"Bearer {token}"}
        )

        assert (response.status_code, response.json()["code"]) == (403, "insufficient_scope")

    async def test_excludes_other_organizations(self, make_tenant: MakeTenant) -> None:
        credential = await make_tenant().created()

        assert await list_events(make_tenant()) == []
        assert await list_events(make_tenant(), credential_id=credential["id"]) == []

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
    async def test_rejects_invalid_filters(self, tenant: Tenant, field: str, value: str) -> None:
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
    async def test_handles_values_that_the_database_cannot_store(
        self, tenant: Tenant, field: str, value: str
    ) -> None:
        response = await tenant.get(f"{tenant.path}/audit-events?{field}={quote(value)}")

        assert response.status_code in {200, 422}


class TestAppendOnly:
    @pytest.mark.parametrize(
        "statement",
        ["UPDATE audit_event SET actor = 'x'", "DELETE FROM audit_event", "TRUNCATE audit_event"],
    )
    async def test_for_the_role_of_the_service(
        self, tenant: Tenant, database: Database, statement: str
    ) -> None:
        await tenant.created()

        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            async with database.session(tenant.organization) as session:
                await session.execute(Query(sa.text(statement)))

        assert len(await list_events(tenant)) == 2


class TestTransaction:
    async def test_includes_the_change_and_its_event(
        self, tenant: Tenant, services: Services, database: Database
    ) -> None:
        credential = await tenant.created()
        before = await list_events(tenant)
        caller = Caller(subject="ada", organization_id=tenant.organization, request_id="req_x")
        faults = outage(2, lasts=False)  # the first step opens the transaction, the second commits it
        services_with_faults = assemble(
            services,
            units=FaultInjectingUnitsOfWork(database, faults),
            store=FakeSecretStore(),
            prober=ApprovingProber(),
        )

        with pytest.raises(DatabaseUnavailable):
            await services_with_faults[CredentialService].rename(
                caller, credential["id"], "changed", revisions=None
            )

        assert faults.steps == 2
        assert await list_events(tenant) == before
        found = await tenant.get(f"{tenant.credentials}/{credential['id']}")
        assert found.json() == credential
