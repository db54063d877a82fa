"""Webhook endpoints and their deliveries: signed, at least once, with a stable message id."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine
from standardwebhooks import Webhook, WebhookVerificationError

from app.core.services import Services
from app.database.engine import Database
from app.database.unit_of_work import UnitsOfWork
from app.observability.metrics import metrics_text
from app.secret_store.embedded.keyset import Keyset
from app.secret_store.embedded.store import EmbeddedSecretStore
from app.secret_store.port import SecretStore
from app.spend_limits.service import SpendLimitService
from app.webhooks.delivery_worker import DeliveryWorker
from app.webhooks.endpoints import MAX_ENDPOINTS, RETRY_DELAYS
from tests.support.canary import Detector
from tests.support.database.rows import change, fetch
from tests.support.database.spending_ledger import insert_ledger_rows, make_row, usd
from tests.support.fakes import FakeSecretStore
from tests.support.fault_injection import Crash, FaultInjectingUnitsOfWork, crash
from tests.support.network.scripted_servers import ADDRESS, HOST, never_respond, scripted_server
from tests.support.network.webhook_receiver import WebhookReceiver, webhook_receiver
from tests.support.output_sinks import Sinks, capture_logs, next_transaction, tables_of
from tests.support.requests.rotation import get_json, status_and_code
from tests.support.requests.spend_limits import spend_clients_of
from tests.support.requests.webhooks import URL, WebhookOrganization, egress_to, services_with_webhooks
from tests.support.service_builder import client_of
from tests.support.tenant import MakeTenant, MakeToken, Tenant

MakeOrganization = Callable[..., AbstractAsyncContextManager[WebhookOrganization]]


@pytest.fixture
def store(database: Database) -> SecretStore:
    return EmbeddedSecretStore(database, Keyset.generate())


@pytest.fixture(autouse=True)
async def _no_other_deliveries(superuser: AsyncEngine) -> None:
    """A worker would also attempt deliveries of earlier tests, which become due after five seconds."""
    await change(superuser, "DELETE FROM job_queue WHERE kind = 'deliver_webhook'")


@pytest.fixture
def make_organization(
    services: Services,
    database: Database,
    superuser: AsyncEngine,
    store: SecretStore,
    tenant: Tenant,
    make_token: MakeToken,
) -> MakeOrganization:
    """Create an organization whose deliveries end at a port. All share one secret store."""

    @asynccontextmanager
    async def make(
        port: int | None, *responses: Any, timeout_seconds: float = 10
    ) -> AsyncIterator[WebhookOrganization]:
        async with egress_to(port, *responses) as (http, guard, backend):
            webhook_services = services_with_webhooks(
                services,
                UnitsOfWork(database),
                store,
                http=http,
                guard=guard,
                timeout_seconds=timeout_seconds,
            )
            async with client_of(webhook_services) as http_client:
                yield WebhookOrganization(
                    clients=spend_clients_of(tenant, make_token, http_client),
                    services=webhook_services,
                    database=database,
                    superuser=superuser,
                    backend=backend,
                )

    return make


@pytest.fixture
async def receiver() -> AsyncIterator[WebhookReceiver]:
    async with webhook_receiver() as found:
        yield found


@pytest.fixture
async def organization(
    make_organization: MakeOrganization, receiver: WebhookReceiver
) -> AsyncIterator[WebhookOrganization]:
    async with make_organization(receiver.port) as found:
        yield found


def verify_message(secret: str, message: Any) -> dict[str, Any]:
    """Verify the signature and return the message. Raises WebhookVerificationError."""
    found: dict[str, Any] = Webhook(secret).verify(message.body, message.headers)
    return found


class TestCreateWebhookEndpoint:
    async def test_returns_the_secret_only_once(self, organization: WebhookOrganization) -> None:
        endpoint = await organization.create_endpoint()

        assert endpoint["signing_secret"].startswith("whsec_")
        assert endpoint["url"] == URL
        read = await get_json(organization.admin, f"{organization.endpoints}/{endpoint['id']}")
        (listed,) = (await get_json(organization.admin, organization.endpoints))["data"]
        assert read == listed == {key: value for key, value in endpoint.items() if key != "signing_secret"}

    async def test_normalizes_the_url(self, organization: WebhookOrganization) -> None:
        assert (await organization.create_endpoint(f"HTTPS://{HOST.upper()}:443/hooks"))["url"] == URL

    @pytest.mark.parametrize(
        ("url", "code"),
        [
            ("http://gw.example.com/", "scheme_not_https"),
            ("https://gw.example.com:8443/", "port_not_allowed"),
            ("https://user:secret@gw.example.com/", "userinfo_present"),
            ("https://gw.example.com/?token=1", "query_present"),
            ("https://127.0.0.1/", "host_is_ip"),
            ("https://localhost/", "host_is_localhost"),
            ("https://gw.example.com/../x", "path_not_allowed"),
            ("gw.example.com", "malformed"),
            ("https://nowhere.example.com/", "dns_no_records"),
            ("https://gw.example.com/sk-ant-api03-abcdefghijkl", "looks_like_key"),
            ("", "too_short"),
        ],
    )
    async def test_refuses_invalid_urls(self, organization: WebhookOrganization, url: str, code: str) -> None:
        response = await organization.post_endpoint(url)

        assert response.status_code == 422, response.text
        (error,) = response.json()["errors"]
        assert (error["field"], error["code"]) == ("url", code)
        assert url not in response.text or not url

    async def test_ignores_the_idempotency_key(self, organization: WebhookOrganization) -> None:
        """A response with a secret is not stored for a replay."""
        first, again = [
            await organization.post_endpoint(headers={"Idempotency-Key": "once"}) for _ in range(2)
        ]

        assert first.json()["signing_secret"] != again.json()["signing_secret"]
        assert "Idempotency-Replayed" not in again.headers

    async def test_limits_the_number_of_endpoints(self, organization: WebhookOrganization) -> None:
        responses = await asyncio.gather(*(organization.post_endpoint() for _ in range(MAX_ENDPOINTS + 2)))

        assert sorted(response.status_code for response in responses) == [201] * MAX_ENDPOINTS + [409] * 2
        assert {status_and_code(a) for a in responses if a.status_code == 409} == {
            (409, "too_many_endpoints")
        }

    async def test_requires_the_scope(self, make_tenant: MakeTenant) -> None:
        viewer = make_tenant("billing-viewer")

        response = await viewer.post(f"{viewer.path}/webhook-endpoints", json={"url": URL})

        assert status_and_code(response) == (403, "insufficient_scope")

    async def test_is_recorded_in_the_audit_log(self, organization: WebhookOrganization) -> None:
        endpoint = await organization.create_endpoint()
        await organization.delete_endpoint(endpoint)

        audit_log = (await get_json(organization.admin, f"{organization.admin.path}/audit-events"))["data"]

        assert [event["action"] for event in audit_log] == [
            "webhook_endpoint.deleted",
            "webhook_endpoint.created",
        ]
        assert {event["details"]["webhook_endpoint_id"] for event in audit_log} == {endpoint["id"]}


class TestDeleteWebhookEndpoint:
    async def test_deletes_endpoint_secret_and_deliveries(
        self, organization: WebhookOrganization, superuser: AsyncEngine, receiver: WebhookReceiver
    ) -> None:
        endpoint = await organization.create_endpoint()
        await organization.cross_thresholds()

        response = await organization.delete_endpoint(endpoint)
        await organization.services[DeliveryWorker].run()

        assert response.json()["id"] == endpoint["id"]
        assert receiver.received == []
        assert status_and_code(await organization.delete_endpoint(endpoint)) == (404, "not_found")
        (secret,) = await fetch(
            superuser, "SELECT sealed FROM sealed_secret WHERE credential_id = :id", id=UUID(endpoint["id"])
        )
        assert secret["sealed"] is None
        for table in ("webhook_endpoint", "webhook_delivery", "job_queue"):
            query = f"SELECT 1 FROM {table} WHERE organization_id = :organization"
            assert await fetch(superuser, query, organization=organization.admin.organization) == []

    async def test_endpoint_of_another_organization_is_not_found(
        self, organization: WebhookOrganization, make_tenant: MakeTenant
    ) -> None:
        endpoint = await organization.create_endpoint()
        other = make_tenant()
        path = f"{other.path}/webhook-endpoints/{endpoint['id']}"

        assert status_and_code(await other.request("DELETE", path)) == (404, "not_found")
        assert status_and_code(await other.get(path)) == (404, "not_found")


class TestDelivery:
    async def test_notifies_every_endpoint_of_every_crossed_threshold(
        self, organization: WebhookOrganization, receiver: WebhookReceiver
    ) -> None:
        secrets = [(await organization.create_endpoint())["signing_secret"] for _ in range(2)]
        limit = await organization.cross_thresholds(50, 100)

        await organization.services[DeliveryWorker].run()

        assert len({message.headers["webhook-id"] for message in receiver.received}) == 4
        thresholds = [
            verify_message(secret, message)["data"]["threshold"]
            for secret in secrets
            for message in receiver.received
            if _is_signed_with(secret, message)
        ]
        assert sorted(thresholds) == [50, 50, 100, 100]
        payload = json.loads(receiver.received[0].body)
        assert payload["type"] == "spend_limit.threshold_crossed"
        assert payload["timestamp"].endswith("Z")
        assert payload["data"] | {"threshold": None} == {
            "organization_id": organization.admin.organization,
            "spend_limit_id": limit["id"],
            "threshold": None,
            "amount": {"amount": "10.00", "currency": "USD"},
            "spent": {"amount": "10.00", "currency": "USD"},
            "period": "month",
            "period_starts_at": limit["period_starts_at"],
        }
        assert {row["state"] for row in await organization.deliveries()} == {"delivered"}

    async def test_sends_only_the_required_headers(
        self, organization: WebhookOrganization, receiver: WebhookReceiver
    ) -> None:
        await organization.create_endpoint()
        await organization.cross_thresholds()
        await organization.services[DeliveryWorker].run()

        (message,) = receiver.received

        assert message.target == "/hooks"
        assert set(message.headers) == {
            "host",
            "content-type",
            "content-length",
            "user-agent",
            "accept-encoding",
            "webhook-id",
            "webhook-timestamp",
            "webhook-signature",
        }

    async def test_changed_body_fails_the_verification(
        self, organization: WebhookOrganization, receiver: WebhookReceiver
    ) -> None:
        secret = (await organization.create_endpoint())["signing_secret"]
        await organization.cross_thresholds()
        await organization.services[DeliveryWorker].run()
        (message,) = receiver.received

        verify_message(secret, message)

        with pytest.raises(WebhookVerificationError):
            Webhook(secret).verify(message.body.replace(b"10.00", b"10.01"), message.headers)

    async def test_rolled_back_event_is_not_delivered(
        self, organization: WebhookOrganization, database: Database, receiver: WebhookReceiver
    ) -> None:
        await organization.create_endpoint()
        await organization.clients.create_limit()
        async with UnitsOfWork(database).writing(organization.admin.organization) as uow:
            rows = [make_row(usd(10))]
            await insert_ledger_rows(uow, rows)
            await organization.services[SpendLimitService].settle(uow, rows)  # without a commit

        await organization.services[DeliveryWorker].run()

        assert receiver.received == []
        assert await organization.deliveries() == []

    async def test_several_instances_deliver_once(
        self,
        organization: WebhookOrganization,
        make_organization: MakeOrganization,
        receiver: WebhookReceiver,
    ) -> None:
        await organization.create_endpoint()
        await organization.cross_thresholds(*range(10, 101, 10))
        async with make_organization(receiver.port) as second, make_organization(receiver.port) as third:
            instances = organization, second, third
            await asyncio.gather(*(instance.services[DeliveryWorker].run() for instance in instances))

        assert len(receiver.received) == 10
        assert len({message.headers["webhook-id"] for message in receiver.received}) == 10

    async def test_is_repeated_after_a_crash_with_the_same_id(
        self,
        organization: WebhookOrganization,
        services: Services,
        database: Database,
        store: SecretStore,
        receiver: WebhookReceiver,
    ) -> None:
        """The worker crashes after sending, at each step of recording the attempt."""
        await organization.create_endpoint()
        await organization.cross_thresholds()
        crashes = 0
        for at in range(2, 5):
            async with egress_to(receiver.port) as (http, guard, _):
                units = FaultInjectingUnitsOfWork(database, crash(at))
                crashing = services_with_webhooks(services, units, store, http=http, guard=guard)
                before = len(receiver.received)
                try:
                    await crashing[DeliveryWorker].run()
                except Crash:
                    crashes += len(receiver.received) > before
            await organization.make_deliveries_due()
        await organization.services[DeliveryWorker].run()

        # Crashes before the transaction, before the commit, and after it: then the attempt is recorded.
        assert crashes == len(receiver.received) == 3
        assert len({message.headers["webhook-id"] for message in receiver.received}) == 1
        assert [row["state"] for row in await organization.deliveries()] == ["delivered"]


class TestRetry:
    async def test_delays_grow_until_the_last_attempt(self, make_organization: MakeOrganization) -> None:
        async with (
            webhook_receiver(["500 Internal Server Error"]) as receiver,
            make_organization(receiver.port) as organization,
        ):
            await organization.create_endpoint()
            await organization.cross_thresholds()
            delays = []
            for _ in range(len(RETRY_DELAYS) + 2):
                await organization.services[DeliveryWorker].run()
                (delivery,) = await organization.deliveries()
                delays.append(delivery["due_in"])
                await organization.make_deliveries_due()

            waits = [float(delay) for delay in delays if delay is not None]
            assert waits == pytest.approx([delay.total_seconds() for delay in RETRY_DELAYS], abs=30)
            assert delays[len(RETRY_DELAYS) :] == [None, None]
            assert (delivery["state"], delivery["attempts"]) == ("dead", len(RETRY_DELAYS) + 1)
            assert len(receiver.received) == len(RETRY_DELAYS) + 1
            assert len({message.headers["webhook-id"] for message in receiver.received}) == 1

    @pytest.mark.parametrize(
        "status", ["301 Moved Permanently", "307 Temporary Redirect", "404 Not Found", "503 Busy"]
    )
    async def test_every_status_except_success_is_retried(
        self, make_organization: MakeOrganization, status: str
    ) -> None:
        async with (
            webhook_receiver([status, "200 OK"]) as receiver,
            make_organization(receiver.port) as organization,
        ):
            secret = (await organization.create_endpoint())["signing_secret"]
            await organization.cross_thresholds()
            await organization.services[DeliveryWorker].run()
            (failed_delivery,) = await organization.deliveries()
            await organization.make_deliveries_due()

            await organization.services[DeliveryWorker].run()

            assert (failed_delivery["state"], failed_delivery["last_outcome"]) == (
                "pending",
                f"status_{status[:3]}",
            )
            assert [row["state"] for row in await organization.deliveries()] == ["delivered"]
            assert len(receiver.received) == 2
            assert set(organization.backend.connected_hosts) == {ADDRESS}  # redirects are not followed
            for message in receiver.received:
                verify_message(secret, message)

    async def test_missing_response_is_a_timeout_and_is_retried(
        self, make_organization: MakeOrganization
    ) -> None:
        async with (
            scripted_server(never_respond) as receiver,
            make_organization(receiver.port, timeout_seconds=0.3) as organization,
        ):
            await organization.create_endpoint()
            await organization.cross_thresholds()

            async with asyncio.timeout(20):
                await organization.services[DeliveryWorker].run()

            (delivery,) = await organization.deliveries()
            assert (delivery["state"], delivery["last_outcome"]) == ("pending", "timeout")

    @pytest.mark.parametrize("address", ["10.0.0.8", "127.0.0.1", "169.254.169.254", "fd00::1"])
    async def test_host_that_becomes_private_is_not_connected_and_is_retried(
        self, make_organization: MakeOrganization, receiver: WebhookReceiver, address: str
    ) -> None:
        async with make_organization(receiver.port, [ADDRESS, address], [ADDRESS]) as organization:
            await organization.create_endpoint()
            await organization.cross_thresholds()
            await organization.services[DeliveryWorker].run()
            (failed_delivery,) = await organization.deliveries()
            connected_hosts = list(organization.backend.connected_hosts)
            await organization.make_deliveries_due()

            await organization.services[DeliveryWorker].run()

            assert (failed_delivery["state"], failed_delivery["last_outcome"]) == (
                "pending",
                "address_refused",
            )
            assert connected_hosts == []
            assert len(receiver.received) == 1  # after the address is public again

    async def test_unavailable_store_postpones_the_attempt(
        self,
        organization: WebhookOrganization,
        receiver: WebhookReceiver,
        services: Services,
        database: Database,
    ) -> None:
        unavailable_store = FakeSecretStore()
        unavailable_store.unavailable = True
        await organization.create_endpoint()
        await organization.cross_thresholds()
        async with egress_to(receiver.port) as (http, guard, _):
            units = UnitsOfWork(database)
            await services_with_webhooks(services, units, unavailable_store, http=http, guard=guard)[
                DeliveryWorker
            ].run()
        (postponed,) = await organization.deliveries()
        await organization.make_deliveries_due()

        await organization.services[DeliveryWorker].run()

        assert (postponed["state"], postponed["attempts"]) == ("pending", 0)
        assert len(receiver.received) == 1


class TestSecret:
    async def test_appears_only_in_the_response_to_the_creation(
        self, organization: WebhookOrganization, receiver: WebhookReceiver, superuser: AsyncEngine
    ) -> None:
        sinks, before = Sinks(), await next_transaction(superuser)
        with capture_logs(sinks):
            created = await organization.post_endpoint()
            detector = Detector({"secret": created.json()["signing_secret"]})
            await organization.cross_thresholds()
            await organization.services[DeliveryWorker].run()
            for path in ("webhook-endpoints", "audit-events", "spend-limits"):
                sinks.add_response(path, await organization.admin.get(f"{organization.admin.path}/{path}"))
            sinks.add_response("delete", await organization.delete_endpoint(created.json()))
        async for relation, rows in tables_of(superuser, since=before):
            sinks.add("tables", f"{relation}\n{rows}")
        sinks.add("metrics", metrics_text())
        for message in receiver.received:
            sinks.add("messages", json.dumps(message.headers).encode() + message.body)

        assert sinks.contains("log records", "webhook_attempted")
        assert sinks.contains("tables", organization.admin.organization)
        assert sinks.contains("messages", "webhook-signature")
        assert detector.search("response", created.content) != []
        assert sinks.leaks(detector) == []


def _is_signed_with(secret: str, message: Any) -> bool:
    try:
        verify_message(secret, message)
    except WebhookVerificationError:
        return False
    return True
