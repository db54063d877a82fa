"""Webhook events about credentials, rotations and the usage mode. They are added with the change, and name no secrets."""

import asyncio
import json
from collections import Counter
from collections.abc import Sequence
from functools import cache
from typing import Any

import jsonschema_rs
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.composition.reconciler import Reconciler
from app.core.clock import now
from app.core.notifications import UsageModeChanged
from app.core.services import Services
from app.database.engine import Database
from app.database.ledger_lock import LedgerLock
from app.database.sessions import Session
from app.database.statements import Query, Row
from app.database.unit_of_work import UnitsOfWork
from app.jobs.queue import JobKind
from app.observability.metrics import REGISTRY
from app.usage_mode.modes import UsageMode
from app.usage_mode.notifications import ScheduledChangeNotifier
from app.webhooks import outbox
from app.webhooks.endpoints import MAX_PENDING
from tests.support.database.rows import change, fetch, make_due
from tests.support.openapi import openapi_document
from tests.support.polling import until
from tests.support.provider.fake_anthropic import FakeAnthropic, make_key
from tests.support.requests.rotation import create_credential, get_json, rotate_credential, switch_to_byo
from tests.support.requests.usage_mode import (
    BYO_WITHOUT_CREDENTIAL,
    future_timestamp,
    switch_mode,
)
from tests.support.tenant import Tenant

WAITING = "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND mode = 'ShareLock' AND NOT granted"


DOCUMENT = openapi_document()


@cache
def validator_of(message_type: str) -> jsonschema_rs.Draft202012Validator:
    """Validates messages of a type as the OpenAPI document describes them."""
    operation = DOCUMENT["webhooks"][message_type]["post"]
    schema = operation["requestBody"]["content"]["application/json"]["schema"]
    return jsonschema_rs.Draft202012Validator(
        {**schema, "components": DOCUMENT["components"]}, validate_formats=True
    )


class Events:
    """The events of one organization that has an endpoint."""

    def __init__(self, tenant: Tenant, superuser: AsyncEngine) -> None:
        self._tenant = tenant
        self._superuser = superuser

    async def messages(self) -> Sequence[dict[str, Any]]:
        """The messages in the outbox, oldest first."""
        rows = await fetch(
            self._superuser,
            "SELECT body FROM webhook_delivery WHERE organization_id = :organization ORDER BY id",
            organization=self._tenant.organization,
        )
        messages = [json.loads(row["body"]) for row in rows]
        for message in messages:
            assert not list(validator_of(message["type"]).iter_errors(message)), "not as the document says"
        return messages

    async def types(self) -> list[str]:
        return [message["type"] for message in await self.messages()]


@pytest.fixture
async def events(tenant: Tenant, superuser: AsyncEngine) -> Events:
    """Add an endpoint. Its row is written directly: no test here sends a message."""
    await add_endpoints(superuser, tenant, 1)
    return Events(tenant, superuser)


async def add_endpoints(superuser: AsyncEngine, tenant: Tenant, endpoints: int) -> None:
    await change(
        superuser,
        "INSERT INTO webhook_endpoint SELECT"
        " :organization, gen_random_uuid(), 'https://gw.example.com/hooks', 'active', gen_random_uuid(), now(), 'test'"
        " FROM generate_series(1, :endpoints)",
        organization=tenant.organization,
        endpoints=endpoints,
    )


class TestCredentialResult:
    async def test_is_sent_when_the_first_one_is_definite(self, tenant: Tenant, events: Events) -> None:
        credential = await tenant.created()

        (message,) = await events.messages()
        assert message["type"] == "credential.valid"
        assert message["data"] == {
            "organization_id": tenant.organization,
            "credential_id": credential["id"],
            "key_version": 1,
            "reason": "ok",
            "checked_at": credential["validation"]["checked_at"],
        }

    async def test_of_the_same_status_is_not_sent_again(self, tenant: Tenant, events: Events) -> None:
        path = await create_credential(tenant, "invalid")

        await tenant.post(f"{path}/validations")

        assert await events.types() == ["credential.invalid"]

    async def test_that_is_indeterminate_is_not_sent(self, tenant: Tenant, events: Events) -> None:
        await create_credential(tenant, "overloaded")

        assert await events.types() == []

    async def test_is_sent_when_the_status_changes(
        self, tenant: Tenant, events: Events, fake_anthropic: FakeAnthropic
    ) -> None:
        key = make_key()
        path = await create_credential(tenant, api_key=key)
        fake_anthropic.behave(key, "invalid")

        await tenant.post(f"{path}/validations")

        assert await events.types() == ["credential.valid", "credential.invalid"]
        assert (await events.messages())[1]["data"]["reason"] == "revoked_or_disabled"

    async def test_names_neither_the_label_nor_the_key(self, tenant: Tenant, events: Events) -> None:
        credential = await tenant.created(label="Our secret project")

        text = json.dumps(await events.messages())
        assert "secret project" not in text
        assert credential["key_hint"] not in text
        assert credential["fingerprint"] not in text


class TestRotation:
    async def test_is_sent_when_it_is_activated(self, tenant: Tenant, events: Events) -> None:
        path = await create_credential(tenant)

        rotation = await rotate_credential(tenant, path)

        assert await events.types() == ["credential.valid", "rotation.activated", "credential.valid"]
        activated = (await events.messages())[1]["data"]
        assert activated == {
            "organization_id": tenant.organization,
            "credential_id": path.rpartition("/")[2],
            "rotation_id": rotation["id"],
            "key_version": 2,
            "replaced_key_version": 1,
        }

    async def test_is_sent_when_it_is_rejected(self, tenant: Tenant, events: Events) -> None:
        path = await create_credential(tenant)

        rotation = await rotate_credential(tenant, path, "invalid")

        assert await events.types() == ["credential.valid", "rotation.rejected"]
        rejected = (await events.messages())[1]["data"]
        assert (rejected["rotation_id"], rejected["reason"]) == (rotation["id"], "invalid_key")

    async def test_is_not_sent_when_an_admin_cancels_it(self, tenant: Tenant, events: Events) -> None:
        path = await create_credential(tenant)
        rotation = await rotate_credential(tenant, path, "overloaded")

        await tenant.request("DELETE", f"{path}/rotations/{rotation['id']}")

        assert await events.types() == ["credential.valid"]


class TestRollback:
    async def test_is_sent_if_the_keys_have_different_results(
        self, tenant: Tenant, events: Events, fake_anthropic: FakeAnthropic
    ) -> None:
        path, key = await create_credential(tenant), make_key()
        await rotate_credential(tenant, path, api_key=key)
        fake_anthropic.behave(key, "invalid")
        await tenant.post(f"{path}/validations")

        credential = (await tenant.post(f"{path}/rollback")).json()

        message = (await events.messages())[-1]
        assert message["type"] == "credential.valid"
        assert message["timestamp"] == credential["updated_at"]
        assert message["data"] == {
            "organization_id": tenant.organization,
            "credential_id": credential["id"],
            "key_version": 1,
            "reason": "ok",
            "checked_at": credential["validation"]["checked_at"],
        }

    async def test_is_not_sent_if_the_keys_have_the_same_result(self, tenant: Tenant, events: Events) -> None:
        path = await create_credential(tenant)
        await rotate_credential(tenant, path)
        before = await events.types()

        await tenant.post(f"{path}/rollback")

        assert await events.types() == before


class TestOutbox:
    async def test_has_the_message_for_all_endpoints_with_one_statement(
        self, tenant: Tenant, superuser: AsyncEngine
    ) -> None:
        await add_endpoints(superuser, tenant, 5)

        await switch_to_byo(tenant, None)

        # `cmin` numbers the statements of a transaction.
        (added,) = await fetch(
            superuser,
            "SELECT count(DISTINCT d.endpoint_id) AS endpoints, count(DISTINCT d.cmin::text) AS statements,"
            " count(q.id) AS queued, bool_and(q.due_at = d.created_at) AS is_due"
            " FROM webhook_delivery d LEFT JOIN job_queue q ON q.organization_id = d.organization_id"
            " AND q.kind = 'deliver_webhook' AND q.id = d.id WHERE d.organization_id = :organization",
            organization=tenant.organization,
        )
        assert dict(added) == {"endpoints": 5, "statements": 1, "queued": 5, "is_due": True}


class TestUsageMode:
    async def test_is_sent_with_an_immediate_switch(self, tenant: Tenant, events: Events) -> None:
        await switch_to_byo(tenant, None)

        (message,) = await events.messages()
        state = await get_json(tenant, f"{tenant.path}/usage-mode")
        assert (message["type"], message["timestamp"]) == ("usage_mode.changed", state["effective_from"])
        assert message["data"] == {
            "organization_id": tenant.organization,
            "mode": "byo",
            "credential_id": None,
            "effective_from": state["effective_from"],
        }

    async def test_is_not_sent_if_nothing_changes(self, tenant: Tenant, events: Events) -> None:
        await switch_mode(tenant, {"mode": "managed"})

        assert await events.types() == []

    async def test_is_not_sent_before_a_scheduled_switch_takes_effect(
        self, tenant: Tenant, events: Events, superuser: AsyncEngine, services: Services
    ) -> None:
        await switch_mode(tenant, BYO_WITHOUT_CREDENTIAL | {"effective_at": future_timestamp(days=1)})

        await make_due(superuser, tenant.organization)
        await services[Reconciler].run()

        assert await events.types() == []

    async def test_is_sent_once_when_a_scheduled_switch_has_taken_effect(
        self, tenant: Tenant, events: Events, superuser: AsyncEngine, services: Services
    ) -> None:
        await switch_mode(tenant, BYO_WITHOUT_CREDENTIAL | {"effective_at": future_timestamp(days=1)})
        await take_effect(superuser, tenant)

        await services[Reconciler].run()
        await services[Reconciler].run()

        (message,) = await events.messages()
        assert (message["type"], message["data"]["mode"]) == ("usage_mode.changed", "byo")

    async def test_is_sent_once_if_two_instances_claimed_the_item(
        self, tenant: Tenant, events: Events, superuser: AsyncEngine, database: Database
    ) -> None:
        await switch_mode(tenant, BYO_WITHOUT_CREDENTIAL | {"effective_at": future_timestamp(days=1)})
        await take_effect(superuser, tenant)
        (item,) = await fetch(
            superuser,
            "SELECT id FROM job_queue WHERE kind = 'notify_usage_mode' AND organization_id = :organization",
            organization=tenant.organization,
        )
        notifier = ScheduledChangeNotifier(UnitsOfWork(database), outbox.notify)

        for _ in range(2):
            await notifier.run(tenant.organization, item["id"])

        assert await events.types() == ["usage_mode.changed"]

    async def test_is_not_sent_of_a_switch_whose_cancellation_is_being_committed(
        self, tenant: Tenant, events: Events, superuser: AsyncEngine, services: Services, database: Database
    ) -> None:
        await switch_mode(tenant, BYO_WITHOUT_CREDENTIAL | {"effective_at": future_timestamp(days=1)})
        await take_effect(superuser, tenant)
        async with UnitsOfWork(database).writing(tenant.organization) as cancelling:
            await cancelling[LedgerLock].lock_exclusively()
            running = asyncio.create_task(services[Reconciler].run())
            await until(lambda: fetch(superuser, WAITING), bool)
            # It was in the future when the cancellation found it.
            await change(
                superuser,
                "DELETE FROM usage_mode_change WHERE organization_id = :organization",
                organization=tenant.organization,
            )
            await cancelling.commit()
        await running

        assert await events.types() == []
        assert await queued(superuser, tenant, JobKind.NOTIFY_USAGE_MODE) == 0

    async def test_is_not_sent_of_a_cancelled_switch(
        self, tenant: Tenant, events: Events, superuser: AsyncEngine
    ) -> None:
        await switch_mode(tenant, BYO_WITHOUT_CREDENTIAL | {"effective_at": future_timestamp(days=1)})

        await tenant.request("DELETE", f"{tenant.path}/usage-mode/scheduled")

        assert await events.types() == []
        assert await queued(superuser, tenant, JobKind.NOTIFY_USAGE_MODE) == 0

    async def test_is_sent_once_if_a_switch_replaces_a_scheduled_one(
        self, tenant: Tenant, events: Events, superuser: AsyncEngine
    ) -> None:
        await switch_mode(tenant, BYO_WITHOUT_CREDENTIAL | {"effective_at": future_timestamp(days=1)})
        await switch_mode(tenant, BYO_WITHOUT_CREDENTIAL | {"effective_at": future_timestamp(days=2)})
        assert await queued(superuser, tenant, JobKind.NOTIFY_USAGE_MODE) == 1

        await switch_mode(tenant, BYO_WITHOUT_CREDENTIAL)

        assert await events.types() == ["usage_mode.changed"]
        assert await queued(superuser, tenant, JobKind.NOTIFY_USAGE_MODE) == 0


async def take_effect(superuser: AsyncEngine, tenant: Tenant) -> None:
    """Move the scheduled switch into the past, with the queue item that is named after its time."""
    await change(
        superuser,
        "UPDATE usage_mode_change"
        " SET effective_from = (effective_from AT TIME ZONE 'UTC' - interval '25 hours') AT TIME ZONE 'UTC'"
        " WHERE organization_id = :organization",
        organization=tenant.organization,
    )
    await change(
        superuser,
        "UPDATE job_queue q SET due_at = c.effective_from,"
        " id = lpad(to_hex((extract(epoch FROM c.effective_from AT TIME ZONE 'UTC') * 1000000)::bigint), 32, '0')::uuid"
        " FROM usage_mode_change c WHERE c.organization_id = q.organization_id AND q.kind = 'notify_usage_mode'"
        " AND q.organization_id = :organization",
        organization=tenant.organization,
    )


async def queued(superuser: AsyncEngine, tenant: Tenant, kind: JobKind) -> int:
    """How many items of this kind the organization has in the queue."""
    rows = await fetch(
        superuser,
        "SELECT 1 FROM job_queue WHERE organization_id = :organization AND kind = :kind",
        organization=tenant.organization,
        kind=kind,
    )
    return len(rows)


def dropped_deliveries() -> float:
    return REGISTRY.get_sample_value("byok_webhooks_dropped_total") or 0.0


async def fill_endpoint(superuser: AsyncEngine, tenant: Tenant) -> str:
    """Add as many pending deliveries to one endpoint as it may have: its receiver has been down for days. Returns its id."""
    await change(
        superuser,
        "WITH added AS (INSERT INTO webhook_delivery (organization_id, id, endpoint_id, type, body, state, attempts, created_at)"
        " SELECT :organization, gen_random_uuid(), e.id, 'usage_mode.changed', '{}', 'pending', 1, now() FROM"
        " (SELECT id FROM webhook_endpoint WHERE organization_id = :organization LIMIT 1) e, generate_series(1, :pending)"
        " RETURNING id) INSERT INTO job_queue SELECT :organization, 'deliver_webhook', id, now() + interval '1 day' FROM added",
        organization=tenant.organization,
        pending=MAX_PENDING,
    )
    (row,) = await fetch(
        superuser,
        "SELECT DISTINCT endpoint_id FROM webhook_delivery WHERE organization_id = :organization",
        organization=tenant.organization,
    )
    return str(row["endpoint_id"])


async def deliveries(superuser: AsyncEngine, tenant: Tenant) -> Counter[str]:
    """The number of deliveries by endpoint."""
    rows = await fetch(
        superuser,
        "SELECT endpoint_id FROM webhook_delivery WHERE organization_id = :organization",
        organization=tenant.organization,
    )
    return Counter(str(row["endpoint_id"]) for row in rows)


class TestPendingDeliveries:
    async def test_beyond_their_maximum_are_not_added_to_that_endpoint(
        self, tenant: Tenant, superuser: AsyncEngine
    ) -> None:
        await add_endpoints(superuser, tenant, 2)
        before = dropped_deliveries()
        full = await fill_endpoint(superuser, tenant)

        await switch_mode(tenant, BYO_WITHOUT_CREDENTIAL)
        assert dropped_deliveries() - before == 1
        found = await deliveries(superuser, tenant)
        assert sorted(found.values()) == [1, MAX_PENDING]

        # As soon as one has ended, messages are added again.
        await change(
            superuser,
            "UPDATE webhook_delivery SET state = 'dead', ended_at = now() WHERE id ="
            " (SELECT id FROM webhook_delivery WHERE endpoint_id = CAST(:endpoint AS uuid) LIMIT 1)",
            endpoint=full,
        )
        await switch_mode(tenant, {"mode": "managed"})
        found = await deliveries(superuser, tenant)
        assert (found[full], sorted(found.values())) == (MAX_PENDING + 1, [2, MAX_PENDING + 1])

    async def test_are_counted_once_in_a_transaction(
        self, tenant: Tenant, superuser: AsyncEngine, database: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """One event may cross a thousand thresholds. Behind 50,000 pending deliveries, 590 of them took 14 seconds."""
        monkeypatch.setattr(outbox, "MAX_PENDING", 3)
        await add_endpoints(superuser, tenant, 2)
        message = UsageModeChanged(
            organization_id=tenant.organization,
            occurred_at=now(),
            mode=UsageMode.BYO,
            credential_id=None,
            effective_from=now(),
        )
        counts: list[str] = []
        rows = Session.rows

        async def record(session: Session, statement: Query, /, **values: Any) -> Sequence[Row]:
            if "count(" in statement.text and "webhook_delivery" in statement.text:
                counts.append(statement.text)
            return await rows(session, statement, **values)

        monkeypatch.setattr(Session, "rows", record)
        before = dropped_deliveries()
        async with UnitsOfWork(database).writing(tenant.organization) as uow:
            for _ in range(5):
                await outbox.notify(uow, message)
            await uow.commit()

        assert len(counts) == 1
        assert list((await deliveries(superuser, tenant)).values()) == [3, 3]
        assert dropped_deliveries() - before == 2 * 2

    async def test_leave_the_queue_with_their_endpoint(self, tenant: Tenant, superuser: AsyncEngine) -> None:
        await add_endpoints(superuser, tenant, 1)
        full = await fill_endpoint(superuser, tenant)
        assert await queued(superuser, tenant, JobKind.DELIVER_WEBHOOK) == MAX_PENDING

        deleted = await tenant.request("DELETE", f"{tenant.path}/webhook-endpoints/{full}")

        assert deleted.is_success, deleted.text
        assert await queued(superuser, tenant, JobKind.DELIVER_WEBHOOK) == 0
        assert not await deliveries(superuser, tenant)
