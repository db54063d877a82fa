"""Webhook endpoints, and what is delivered to them: signed, at least once, under a stable id."""

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
from app.webhooks.endpoints import MOST_ENDPOINTS, PAUSES
from tests.api.rotating import refusal, seen
from tests.api.spending import spenders_of
from tests.api.telling import URL, Telling, services_of, way_out
from tests.assembly import client_of
from tests.canary import Detector
from tests.conftest import MakeTenant, MakeToken, Tenant
from tests.e2e.sinks import Sinks, logged, tables_of
from tests.fakes import FakeSecretStore
from tests.integration.egress.far_side import ADDRESS, HOST, far_server, silence
from tests.integration.egress.receiver import Receiver, receiver
from tests.interruptions import Crash, InterruptedUnits, crash
from tests.rows import fetch
from tests.spend_ledger import make_row, usd, write

MakeTelling = Callable[..., AbstractAsyncContextManager[Telling]]


@pytest.fixture
def store(database: Database) -> SecretStore:
    return EmbeddedSecretStore(database, Keyset.generate())


@pytest.fixture
def make_telling(
    services: Services,
    database: Database,
    owner: AsyncEngine,
    store: SecretStore,
    tenant: Tenant,
    make_token: MakeToken,
) -> MakeTelling:
    """Services whose deliveries end at a port, over one secret store."""

    @asynccontextmanager
    async def make(port: int | None, *answers: Any, timeout_seconds: float = 10) -> AsyncIterator[Telling]:
        async with way_out(port, *answers) as (http, guard, detour):
            own = services_of(
                services,
                UnitsOfWork(database),
                store,
                http=http,
                guard=guard,
                timeout_seconds=timeout_seconds,
            )
            async with client_of(own) as asked:
                yield Telling(
                    spenders=spenders_of(tenant, make_token, asked),
                    services=own,
                    database=database,
                    owner=owner,
                    detour=detour,
                )

    return make


@pytest.fixture
async def far() -> AsyncIterator[Receiver]:
    async with receiver() as found:
        yield found


@pytest.fixture
async def telling(make_telling: MakeTelling, far: Receiver) -> AsyncIterator[Telling]:
    async with make_telling(far.port) as found:
        yield found


def verified(secret: str, message: Any) -> dict[str, Any]:
    """The message, if its signature is good. Raises WebhookVerificationError."""
    found: dict[str, Any] = Webhook(secret).verify(message.body, message.headers)
    return found


class TestAdding:
    async def test_shows_the_secret_once(self, telling: Telling) -> None:
        endpoint = await telling.added()

        assert endpoint["signing_secret"].startswith("whsec_")
        assert endpoint["url"] == URL
        read = await seen(telling.admin, f"{telling.endpoints}/{endpoint['id']}")
        (listed,) = (await seen(telling.admin, telling.endpoints))["data"]
        assert read == listed == {key: value for key, value in endpoint.items() if key != "signing_secret"}

    async def test_keeps_one_spelling_of_the_url(self, telling: Telling) -> None:
        assert (await telling.added(f"HTTPS://{HOST.upper()}:443/hooks"))["url"] == URL

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
    async def test_refuses(self, telling: Telling, url: str, code: str) -> None:
        response = await telling.add(url)

        assert response.status_code == 422, response.text
        (error,) = response.json()["errors"]
        assert (error["field"], error["code"]) == ("url", code)
        assert url not in response.text or not url

    async def test_ignores_the_idempotency_key(self, telling: Telling) -> None:
        """An answer with a secret is not kept to be replayed."""
        first, again = [await telling.add(headers={"Idempotency-Key": "once"}) for _ in range(2)]

        assert first.json()["signing_secret"] != again.json()["signing_secret"]
        assert "Idempotency-Replayed" not in again.headers

    async def test_has_an_end(self, telling: Telling) -> None:
        answers = await asyncio.gather(*(telling.add() for _ in range(MOST_ENDPOINTS + 2)))

        assert sorted(answer.status_code for answer in answers) == [201] * MOST_ENDPOINTS + [409] * 2
        assert {refusal(a) for a in answers if a.status_code == 409} == {(409, "too_many_endpoints")}

    async def test_needs_the_scope(self, make_tenant: MakeTenant) -> None:
        viewer = make_tenant("billing-viewer")

        response = await viewer.post(f"{viewer.path}/webhook-endpoints", json={"url": URL})

        assert refusal(response) == (403, "insufficient_scope")

    async def test_is_on_the_trail(self, telling: Telling) -> None:
        endpoint = await telling.added()
        await telling.delete(endpoint)

        trail = (await seen(telling.admin, f"{telling.admin.path}/audit-events"))["data"]

        assert [event["action"] for event in trail] == [
            "webhook_endpoint.deleted",
            "webhook_endpoint.created",
        ]
        assert {event["details"]["webhook_endpoint_id"] for event in trail} == {endpoint["id"]}


class TestDeleting:
    async def test_takes_endpoint_secret_and_deliveries_away(
        self, telling: Telling, owner: AsyncEngine, far: Receiver
    ) -> None:
        endpoint = await telling.added()
        await telling.cross()

        response = await telling.delete(endpoint)
        await telling.services[DeliveryWorker].run()

        assert response.json()["id"] == endpoint["id"]
        assert far.received == []
        assert refusal(await telling.delete(endpoint)) == (404, "not_found")
        (sealed,) = await fetch(
            owner, "SELECT sealed FROM sealed_secret WHERE credential_id = :id", id=UUID(endpoint["id"])
        )
        assert sealed["sealed"] is None
        for table in ("webhook_endpoint", "webhook_delivery", "job_queue"):
            left = f"SELECT 1 FROM {table} WHERE organization_id = :organization"
            assert await fetch(owner, left, organization=telling.admin.organization) == []

    async def test_of_another_organizations_finds_nothing(
        self, telling: Telling, make_tenant: MakeTenant
    ) -> None:
        endpoint = await telling.added()
        other = make_tenant()
        path = f"{other.path}/webhook-endpoints/{endpoint['id']}"

        assert refusal(await other.request("DELETE", path)) == (404, "not_found")
        assert refusal(await other.get(path)) == (404, "not_found")


class TestDelivery:
    async def test_tells_every_endpoint_of_every_crossing(self, telling: Telling, far: Receiver) -> None:
        secrets = [(await telling.added())["signing_secret"] for _ in range(2)]
        limit = await telling.cross(50, 100)

        await telling.services[DeliveryWorker].run()

        assert len({message.headers["webhook-id"] for message in far.received}) == 4
        told = [
            verified(secret, message)["data"]["threshold"]
            for secret in secrets
            for message in far.received
            if _is_signed_with(secret, message)
        ]
        assert sorted(told) == [50, 50, 100, 100]
        payload = json.loads(far.received[0].body)
        assert payload["type"] == "spend_limit.threshold_crossed"
        assert payload["timestamp"].endswith("Z")
        assert payload["data"] | {"threshold": None} == {
            "organization_id": telling.admin.organization,
            "spend_limit_id": limit["id"],
            "threshold": None,
            "amount": {"amount": "10.00", "currency": "USD"},
            "spent": {"amount": "10.00", "currency": "USD"},
            "period": "month",
            "period_starts_at": limit["period_starts_at"],
        }
        assert {row["state"] for row in await telling.deliveries()} == {"delivered"}

    async def test_is_a_plain_post_without_anything_of_ours(self, telling: Telling, far: Receiver) -> None:
        await telling.added()
        await telling.cross()
        await telling.services[DeliveryWorker].run()

        (message,) = far.received

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

    async def test_with_one_byte_changed_is_not_signed(self, telling: Telling, far: Receiver) -> None:
        secret = (await telling.added())["signing_secret"]
        await telling.cross()
        await telling.services[DeliveryWorker].run()
        (message,) = far.received

        verified(secret, message)

        with pytest.raises(WebhookVerificationError):
            Webhook(secret).verify(message.body.replace(b"10.00", b"10.01"), message.headers)

    async def test_of_what_is_rolled_back_is_none(
        self, telling: Telling, database: Database, far: Receiver
    ) -> None:
        await telling.added()
        await telling.spenders.set_limit()
        async with UnitsOfWork(database).writing(telling.admin.organization) as uow:
            rows = [make_row(usd(10))]
            await write(uow, rows)
            await telling.services[SpendLimitService].settle(uow, rows)  # and no commit

        await telling.services[DeliveryWorker].run()

        assert far.received == []
        assert await telling.deliveries() == []

    async def test_is_made_once_by_several_instances(
        self, telling: Telling, make_telling: MakeTelling, far: Receiver
    ) -> None:
        await telling.added()
        await telling.cross(*range(10, 101, 10))
        async with make_telling(far.port) as second, make_telling(far.port) as third:
            instances = telling, second, third
            await asyncio.gather(*(instance.services[DeliveryWorker].run() for instance in instances))

        assert len(far.received) == 10
        assert len({message.headers["webhook-id"] for message in far.received}) == 10

    async def test_after_a_crash_comes_again_under_the_same_id(
        self,
        telling: Telling,
        services: Services,
        database: Database,
        store: SecretStore,
        far: Receiver,
    ) -> None:
        """The message is out, and its sender dies before it is noted; at every step of noting it."""
        await telling.added()
        await telling.cross()
        died = 0
        for at in range(2, 5):
            async with way_out(far.port) as (http, guard, _):
                units = InterruptedUnits(database, crash(at))
                dying = services_of(services, units, store, http=http, guard=guard)
                before = len(far.received)
                try:
                    await dying[DeliveryWorker].run()
                except Crash:
                    died += len(far.received) > before
            await telling.let_it_be_time()
        await telling.services[DeliveryWorker].run()

        assert (
            died == len(far.received) == 3
        )  # before it was begun, before it was kept, and after: then it is done
        assert len({message.headers["webhook-id"] for message in far.received}) == 1
        assert [row["state"] for row in await telling.deliveries()] == ["delivered"]


class TestRetry:
    async def test_comes_later_and_later_and_then_never(self, make_telling: MakeTelling) -> None:
        async with receiver(["500 Internal Server Error"]) as far, make_telling(far.port) as telling:
            await telling.added()
            await telling.cross()
            pauses = []
            for _ in range(len(PAUSES) + 2):
                await telling.services[DeliveryWorker].run()
                (delivery,) = await telling.deliveries()
                pauses.append(delivery["due_in"])
                await telling.let_it_be_time()

            waits = [float(pause) for pause in pauses if pause is not None]
            assert waits == pytest.approx([pause.total_seconds() for pause in PAUSES], abs=30)
            assert pauses[len(PAUSES) :] == [None, None]
            assert (delivery["state"], delivery["attempts"]) == ("dead", len(PAUSES) + 1)
            assert len(far.received) == len(PAUSES) + 1
            assert len({message.headers["webhook-id"] for message in far.received}) == 1

    @pytest.mark.parametrize(
        "status", ["301 Moved Permanently", "307 Temporary Redirect", "404 Not Found", "503 Busy"]
    )
    async def test_follows_whatever_is_no_success(self, make_telling: MakeTelling, status: str) -> None:
        async with receiver([status, "200 OK"]) as far, make_telling(far.port) as telling:
            secret = (await telling.added())["signing_secret"]
            await telling.cross()
            await telling.services[DeliveryWorker].run()
            (failed,) = await telling.deliveries()
            await telling.let_it_be_time()

            await telling.services[DeliveryWorker].run()

            assert (failed["state"], failed["last_outcome"]) == ("pending", f"status_{status[:3]}")
            assert [row["state"] for row in await telling.deliveries()] == ["delivered"]
            assert len(far.received) == 2
            assert set(telling.detour.dialled) == {ADDRESS}  # a redirect leads nowhere
            for message in far.received:
                verified(secret, message)

    async def test_follows_silence_in_bounded_time(self, make_telling: MakeTelling) -> None:
        async with far_server(silence) as far, make_telling(far.port, timeout_seconds=0.3) as telling:
            await telling.added()
            await telling.cross()

            async with asyncio.timeout(20):
                await telling.services[DeliveryWorker].run()

            (delivery,) = await telling.deliveries()
            assert (delivery["state"], delivery["last_outcome"]) == ("pending", "timeout")

    @pytest.mark.parametrize("address", ["10.0.0.8", "127.0.0.1", "169.254.169.254", "fd00::1"])
    async def test_follows_a_name_that_turned_private_which_is_not_dialled(
        self, make_telling: MakeTelling, far: Receiver, address: str
    ) -> None:
        async with make_telling(far.port, [ADDRESS, address], [ADDRESS]) as telling:
            await telling.added()
            await telling.cross()
            await telling.services[DeliveryWorker].run()
            (refused,) = await telling.deliveries()
            dialled = list(telling.detour.dialled)
            await telling.let_it_be_time()

            await telling.services[DeliveryWorker].run()

            assert (refused["state"], refused["last_outcome"]) == ("pending", "address_refused")
            assert dialled == []
            assert len(far.received) == 1  # once it is public again

    async def test_waits_for_a_store_that_is_down(
        self, telling: Telling, far: Receiver, services: Services, database: Database
    ) -> None:
        down = FakeSecretStore()
        down.unavailable = True
        await telling.added()
        await telling.cross()
        async with way_out(far.port) as (http, guard, _):
            units = UnitsOfWork(database)
            await services_of(services, units, down, http=http, guard=guard)[DeliveryWorker].run()
        (waiting,) = await telling.deliveries()
        await telling.let_it_be_time()

        await telling.services[DeliveryWorker].run()

        assert (waiting["state"], waiting["attempts"]) == ("pending", 0)
        assert len(far.received) == 1


class TestSecret:
    async def test_comes_out_nowhere_but_in_its_one_answer(
        self, telling: Telling, far: Receiver, owner: AsyncEngine
    ) -> None:
        sinks = Sinks()
        with logged(sinks):
            created = await telling.add()
            detector = Detector({"secret": created.json()["signing_secret"]})
            await telling.cross()
            await telling.services[DeliveryWorker].run()
            for path in ("webhook-endpoints", "audit-events", "spend-limits"):
                sinks.answered(path, await telling.admin.get(f"{telling.admin.path}/{path}"))
            sinks.answered("delete", await telling.delete(created.json()))
        async for relation, rows in tables_of(owner):
            sinks.add("tables", f"{relation}\n{rows}")
        sinks.add("metrics", metrics_text())
        for message in far.received:
            sinks.add("messages", json.dumps(message.headers).encode() + message.body)

        assert sinks.hold("log records", "webhook_attempted")
        assert sinks.hold("tables", telling.admin.organization)
        assert sinks.hold("messages", "webhook-signature")
        assert detector.search("answer", created.content) != []
        assert sinks.leaks(detector) == []


def _is_signed_with(secret: str, message: Any) -> bool:
    try:
        verified(secret, message)
    except WebhookVerificationError:
        return False
    return True
