"""No body takes the event loop or the memory from other requests, whatever it contains."""

import asyncio
import gc
import json
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from app.auth.principal import Scope
from app.core.clock import new_id
from app.core.services import Services
from tests.support.fault_injection import sampled_cases
from tests.support.openapi import openapi_document
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
# `make test` tests another twentieth of the bodies of each operation every day, and `make test-exhaustive` tests all.
STRIDE = 20

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
        for name, make_body in sampled_cases(
            worst_bodies(schema, SCHEMAS, MEBIBYTE), stride=STRIDE, of=operation
        ):
            body = make_body()
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


FULL = 16 * MEBIBYTE
MANY_FIELDS = {f"x{number}": [number, {"a": None}] for number in range(90)}
LONG_TEXTS = dict.fromkeys(("endpoint_id", "feature", "session_id", "prompt_id", "model"), "€" * 128)


def different_models() -> Iterator[dict[str, Any]]:
    for number in range(4999):
        iterations = [
            {"type": "compaction", "output_tokens": 1, "model": f"{prefix}{number}"} for prefix in "mn"
        ]
        yield event(usage={"input_tokens": 1, "iterations": iterations})


def full_of_iterations(iteration: Mapping[str, Any], number: int) -> bytes:
    return batch(event(usage={"input_tokens": 1, "iterations": [iteration] * 256}) for _ in range(number))


# Functions, because all bodies together have 350 MiB, and every process that collects this module would make them.
UNREADABLE_BATCHES: dict[str, Callable[[], bytes]] = {
    "numbers": lambda: repeated("1"),
    "a surrogate, then numbers": lambda: b'{"events":["\\ud800",' + b"1," * (FULL // 2 - 30) + b"1]}",
    "surrogates": lambda: repeated('"\\ud800"'),
    "one event of surrogates": lambda: repeated('["' + "\\ud800" * (FULL // 6 - 10) + '"]'),
    "one event of lists": lambda: repeated("[" + "[]," * (FULL // 3 - 20) + "[]]"),
    "large events of lists": lambda: repeated("[" + "[]," * 80_000 + "[]]"),
    "large events of objects": lambda: repeated("[" + "{}," * 80_000 + '"\\ud800"]'),
    "unknown fields": lambda: b'{"a":0' + b"".join(b',"a%d":0' % n for n in range(1_200_000)) + b"}",
    "deep lists": lambda: repeated("[" * (FULL // 2 - 20) + "]" * (FULL // 2 - 20)),
    "commas": lambda: repeated('"' + "," * 3500 + '"'),
}
EVENT_BATCHES: dict[str, Callable[[], bytes]] = {
    "events with unknown fields": lambda: batch(event(**MANY_FIELDS) for _ in range(5000)),
    "unknown usage": lambda: batch(event(usage={"input_tokens": 1, **MANY_FIELDS}) for _ in range(5000)),
    "long texts": lambda: batch(event(**LONG_TEXTS) for _ in range(3800)),
    "the same event": lambda: batch([event(event_id="e", feature="f" * 128)] * 5000),
    "invalid events": lambda: batch(
        event(model=5, usage={"input_tokens": 1, **MANY_FIELDS}) for _ in range(5000)
    ),
    "large events with unknown fields": lambda: batch([{f"{n}": [] for n in range(20_000)}] * 60),
    "large events with many iterations": lambda: batch([event(usage={"iterations": [{}] * 50_000})] * 70),
    "events with different models": lambda: batch(different_models()),
    "encoded percent signs": lambda: batch(
        event(usage={"input_tokens": 1, "x": "%25" * 20_000}) for _ in range(100)
    ),
    "256 iterations of an unexpected form": lambda: full_of_iterations(
        {"type": 5, "input_tokens": 1.0}, 1100
    ),
    "256 compactions": lambda: full_of_iterations({"type": "compaction", "model": "claude-haiku-5-5"}, 1100),
    "256 empty iterations": lambda: full_of_iterations({}, 5000),
}
BATCHES = {**UNREADABLE_BATCHES, **EVENT_BATCHES}


@pytest.mark.slow
class TestIngestion:
    @pytest.mark.parametrize("name", list(sampled_cases(BATCHES, stride=3, of=INGESTION)))
    async def test_never_uses_the_loop_for_long(self, ledger: Ledger, name: str) -> None:
        body = BATCHES[name]()
        assert len(body) <= 16 * MEBIBYTE
        # The first batch of the process also builds its validators and statements.
        await ledger.accepted(event())

        async def parts() -> AsyncIterator[bytes]:
            for start in range(0, len(body), READ_BYTES):
                yield body[start : start + READ_BYTES]
                await asyncio.sleep(0)  # as the server passes them on: each part arrives by itself

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
