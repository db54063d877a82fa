"""No body takes the event loop or the memory from other requests, whatever it contains."""

import gc
import json
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from app.auth.principal import Scope
from app.core.clock import new_id
from app.core.services import Services
from app.main import openapi_document
from tests.support.request_cost import Cost, cost_of
from tests.support.requests.usage_events import Ledger, event
from tests.support.tenant import MakeTenant, MakeToken, Tenant
from tests.support.worst_bodies import worst_bodies

JSON = {"Content-Type": "application/json"}
MEBIBYTE = 1024 * 1024
LOOP_SECONDS = 0.2
# Of a batch of 16 MiB. On an idle machine the longest step takes about 10 ms: one statement with 5,000 event ids.
BATCH_LOOP_SECONDS = 0.1
MEMORY_MEBIBYTES = 64
READ_BYTES = 64 * 1024
RESPONSE_BYTES = 16 * 1024

DOCUMENT = openapi_document()
SCHEMAS = DOCUMENT["components"]["schemas"]
OPERATIONS: dict[str, tuple[str, str, dict[str, Any]]] = {
    operation["operationId"]: (
        method,
        path,
        operation["requestBody"]["content"]["application/json"]["schema"],
    )
    for path, item in DOCUMENT["paths"].items()
    for method, operation in item.items()
    if "requestBody" in operation
}
INGESTION = "ingestUsageEvents"


def excess(
    name: str, response_bytes: int, status: int, cost: Cost, *, seconds: float, at_most: float = LOOP_SECONDS
) -> str | None:
    """Describe what exceeds a limit."""
    is_small = status < 400 or response_bytes <= RESPONSE_BYTES
    is_cheap = seconds <= at_most and cost.memory_mebibytes <= MEMORY_MEBIBYTES
    if status < 500 and is_small and is_cheap:
        return None
    return f"{name}: {status}, {response_bytes} bytes, {cost}"


@pytest.fixture(autouse=True, scope="module")
def _frozen_objects(services: Services) -> Iterator[None]:  # made before they are frozen
    """The garbage collector skips existing objects, as in the service."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def anyone(make_tenant: MakeTenant, make_token: MakeToken) -> Tenant:
    """A client that may call every operation of a new organization."""
    tenant = make_tenant()
    return replace(tenant, token=make_token(scopes=frozenset(Scope) - {Scope.RELAY_MESSAGES}))


@pytest.mark.slow
class TestEveryOperation:
    @pytest.mark.parametrize("operation", sorted(OPERATIONS.keys() - {INGESTION}))
    async def test_bounds_the_cost_of_any_body(self, anyone: Tenant, operation: str) -> None:
        method, path, schema = OPERATIONS[operation]
        url = path.format(
            organization_id=anyone.organization,
            credential_id=new_id(),
            limit_id=new_id(),
            day=datetime.now(UTC).date(),
        )
        exceeded: list[str | None] = []
        for name, body in worst_bodies(schema, SCHEMAS, MEBIBYTE):
            assert len(body) <= MEBIBYTE, name
            response, cost = await cost_of(anyone.request(method, url, content=body, headers=JSON))
            exceeded.append(
                excess(name, len(response.content), response.status_code, cost, seconds=cost.total_seconds)
            )

        assert [found for found in exceeded if found is not None] == []


def repeated(text: str) -> bytes:
    """A batch with this item as often as it fits."""
    number = (16 * MEBIBYTE - 20) // (len(text.encode()) + 1)
    return b'{"events":[' + ",".join([text] * number).encode() + b"]}"


def batch(events: Iterable[Any]) -> bytes:
    return json.dumps({"events": list(events)}).encode()


def unreadable_batches() -> Iterator[tuple[str, bytes]]:
    full = 16 * MEBIBYTE
    yield "numbers", repeated("1")
    yield "a surrogate, then numbers", b'{"events":["\\ud800",' + b"1," * (full // 2 - 30) + b"1]}"
    yield "surrogates", repeated('"\\ud800"')
    yield "one event of surrogates", repeated('["' + "\\ud800" * (full // 6 - 10) + '"]')
    yield "one event of lists", repeated("[" + "[]," * (full // 3 - 20) + "[]]")
    yield "large events of lists", repeated("[" + "[]," * 80_000 + "[]]")
    yield "large events of objects", repeated("[" + "{}," * 80_000 + '"\\ud800"]')
    yield "unknown fields", b'{"a":0' + b"".join(b',"a%d":0' % n for n in range(1_200_000)) + b"}"
    yield "deep lists", repeated("[" * (full // 2 - 20) + "]" * (full // 2 - 20))
    yield "commas", repeated('"' + "," * 3500 + '"')


def event_batches() -> Iterator[tuple[str, bytes]]:
    large = {f"x{number}": [number, {"a": None}] for number in range(90)}
    usage = {"input_tokens": 1, **large}
    texts = dict.fromkeys(("endpoint_id", "feature", "session_id", "prompt_id", "model"), "€" * 128)
    yield "unknown fields", batch(event(**large) for _ in range(5000))
    yield "unknown usage", batch(event(usage=usage) for _ in range(5000))
    yield "long texts", batch(event(**texts) for _ in range(3800))
    yield "the same event", batch([event(event_id="e", feature="f" * 128)] * 5000)
    yield "invalid events", batch(event(model=5, usage=usage) for _ in range(5000))
    yield "large events with unknown fields", batch([{f"{n}": [] for n in range(20_000)}] * 60)
    yield "large events with many iterations", batch([event(usage={"iterations": [{}] * 50_000})] * 70)
    model = {"type": "compaction", "output_tokens": 1}
    yield (
        "events with different models",
        batch(
            event(
                usage={
                    "input_tokens": 1,
                    "iterations": [model | {"model": f"m{n}"}, model | {"model": f"n{n}"}],
                }
            )
            for n in range(4999)
        ),
    )
    yield (
        "encoded percent signs",
        batch(event(usage={"input_tokens": 1, "x": "%25" * 20_000}) for _ in range(100)),
    )
    for name, iteration, number in (
        ("iterations of an unexpected form", {"type": 5, "input_tokens": 1.0}, 1100),
        ("compactions", {"type": "compaction", "model": "claude-haiku-5-5"}, 1100),
        ("empty iterations", {}, 5000),
    ):
        usage = {"input_tokens": 1, "iterations": [iteration] * 256}
        yield f"256 {name}", batch(event(usage=usage) for _ in range(number))


BATCHES = [*unreadable_batches(), *event_batches()]


@pytest.mark.slow
class TestIngestion:
    @pytest.mark.parametrize(("name", "body"), BATCHES, ids=[name for name, _ in BATCHES])
    async def test_never_uses_the_loop_for_long(self, ledger: Ledger, name: str, body: bytes) -> None:
        assert len(body) <= 16 * MEBIBYTE
        await ledger.accepted()  # the first request of the process also builds its validators

        async def parts() -> AsyncIterator[bytes]:
            for start in range(0, len(body), READ_BYTES):
                yield body[start : start + READ_BYTES]  # as the server passes them on

        response, cost = await cost_of(ledger.service.post(ledger.path, content=parts(), headers=JSON))
        found = excess(
            name,
            len(response.content),
            response.status_code,
            cost,
            seconds=cost.longest_seconds,
            at_most=BATCH_LOOP_SECONDS,
        )
        assert found is None


DIMENSIONS = (
    *("usage_mode", "model", "endpoint_id", "feature", "session_id", "prompt_id"),
    *("credential_id", "key_version", "outcome"),
)
WIDE_REPORT = {
    "starting_at": "2020-01-01T00:00:00Z",
    "bucket_width": "all",
    "limit": 10_000,
    "group_by[]": DIMENSIONS,
}
ROWS = 10_000


@pytest.mark.slow
class TestReports:
    @pytest.mark.parametrize("media_type", ["application/json", "text/csv"])
    async def test_of_many_rows_never_use_the_loop_for_long(self, ledger: Ledger, media_type: str) -> None:
        for start in range(0, ROWS, 5000):
            await ledger.accepted(
                *(
                    event(session_id=f"session-{n}", feature=f"feature-{n}")
                    for n in range(start, start + 5000)
                )
            )

        for path, query in (
            (f"{ledger.tenant.path}/usage-report", WIDE_REPORT),
            (ledger.path, {"limit": 100}),
        ):
            response, cost = await cost_of(
                ledger.tenant.get(path, params=query, headers={"Accept": media_type})
            )
            assert response.status_code == 200, response.text[:500]
            assert cost.longest_seconds <= LOOP_SECONDS, (path, cost)
            assert cost.memory_mebibytes <= MEMORY_MEBIBYTES, (path, cost)
