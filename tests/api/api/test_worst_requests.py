"""No query string, path or header field takes the event loop from other requests, and no body of an operation without one."""

import gc
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import httpx
import pytest

from app.auth.principal import Scope
from app.core.clock import new_id
from app.core.services import Services
from tests.support.fault_injection import sampled_cases
from tests.support.openapi import openapi_document
from tests.support.request_cost import cost_of
from tests.support.tenant import MakeTenant, MakeToken, Tenant
from tests.support.worst_bodies import worst_bodies
from tests.support.worst_requests import (
    send_raw,
    worst_headers,
    worst_path_values,
    worst_queries,
    worst_tokens,
)

LOOP_SECONDS, MEMORY_MEBIBYTES, RESPONSE_BYTES = 0.2, 64, 16 * 1024
MEBIBYTE = 1024 * 1024
# `make test` tests another twentieth of the requests of each operation every day, and `make test-exhaustive` tests all.
STRIDE = 20

DOCUMENT = openapi_document()
OPERATIONS: dict[str, tuple[str, str, dict[str, Any]]] = {
    operation["operationId"]: (method, path, operation)
    for path, item in DOCUMENT["paths"].items()
    for method, operation in item.items()
}
# The document does not show the lists of these filters, because generated clients would give both the same name.
HIDDEN = {
    "listUsageEvents": tuple(
        f"{name}[]"
        for name in (
            *("usage_mode", "model", "endpoint_id", "feature", "session_id", "prompt_id"),
            *("credential_id", "key_version", "outcome"),
        )
    )
}
WITH_QUERY = [
    name
    for name, (_, _, operation) in OPERATIONS.items()
    if any(it["in"] == "query" for it in operation.get("parameters", ()))
]
WITHOUT_BODY = [
    name
    for name, (method, _, operation) in OPERATIONS.items()
    if method not in {"get", "head"} and "requestBody" not in operation
]


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


class Costs:
    """Sends requests and collects what exceeds the limits."""

    def __init__(self, tenant: Tenant) -> None:
        self._tenant = tenant
        transport = tenant.http._transport
        assert isinstance(transport, httpx.ASGITransport)
        self._app = transport.app
        self.exceeded: list[str] = []

    def url(self, path: str, **values: str) -> str:
        known = {
            "organization_id": self._tenant.organization,
            **dict.fromkeys(
                ("credential_id", "rotation_id", "limit_id", "reservation_id", "endpoint_id"), str(new_id())
            ),
            "day": "2026-11-01",
            "month": "2026-11",
            "key_version": "1",
            "code": "x" * 43,
        }
        return path.format(**known | values)

    async def send(
        self,
        name: str,
        method: str,
        url: str,
        *,
        headers: Mapping[str, bytes] | None = None,
        body: bytes = b"",
    ) -> None:
        sent = {
            "Authorization": f"Bearer {self._tenant.token}".encode(),
            "Content-Type": b"application/json",
            "Content-Length": str(len(body)).encode(),
        } | dict(headers or {})
        response, cost = await cost_of(send_raw(self._app, method, url, sent, body))
        is_small = response.status < 400 or response.size <= RESPONSE_BYTES
        is_cheap = cost.total_seconds <= LOOP_SECONDS and cost.memory_mebibytes <= MEMORY_MEBIBYTES
        is_known = 100 < response.status < 500 or "/readyz" in url
        # The embedded store has no leases.
        is_known |= response.status == 501 and url.endswith("/credential-leases")
        if not (is_small and is_cheap and is_known):
            self.exceeded.append(f"{name}: {response}, {cost}")


@pytest.fixture
def costs(anyone: Tenant) -> Costs:
    return Costs(anyone)


@pytest.mark.slow
class TestEveryOperation:
    @pytest.mark.parametrize("operation", WITH_QUERY)
    async def test_bounds_the_cost_of_any_query(self, costs: Costs, operation: str) -> None:
        method, path, described = OPERATIONS[operation]
        names = [it["name"] for it in described["parameters"] if it["in"] == "query"]
        queries = worst_queries([*names, *HIDDEN.get(operation, ())])
        for name, query in sampled_cases(queries, stride=STRIDE, of=operation):
            await costs.send(name, method, f"{costs.url(path)}?{query}")

        assert costs.exceeded == []

    @pytest.mark.parametrize("operation", OPERATIONS)
    async def test_bounds_the_cost_of_any_path(self, costs: Costs, operation: str) -> None:
        method, path, described = OPERATIONS[operation]
        for parameter in described.get("parameters", ()):
            if parameter["in"] == "path":
                for name, value in sampled_cases(worst_path_values(), stride=STRIDE, of=operation):
                    url = costs.url(path, **{parameter["name"]: value})
                    await costs.send(f"{parameter['name']}: {name}", method, url)

        assert costs.exceeded == []

    @pytest.mark.parametrize("operation", OPERATIONS)
    async def test_bounds_the_cost_of_any_header(self, costs: Costs, operation: str) -> None:
        method, path, _ = OPERATIONS[operation]
        for name, headers in sampled_cases(worst_headers(), stride=STRIDE, of=operation):
            body = b"" if method == "get" else b"{}"
            await costs.send(name, method, costs.url(path), headers=headers, body=body)

        assert costs.exceeded == []

    @pytest.mark.parametrize("operation", WITHOUT_BODY)
    async def test_bounds_the_cost_of_a_body_that_it_does_not_have(
        self, costs: Costs, operation: str
    ) -> None:
        method, path, _ = OPERATIONS[operation]
        bodies = worst_bodies({"properties": {}}, {}, MEBIBYTE)
        for name, make_body in sampled_cases(bodies, stride=STRIDE, of=operation):
            await costs.send(name, method, costs.url(path), body=make_body())

        assert costs.exceeded == []


@pytest.mark.slow
class TestTokens:
    @pytest.mark.parametrize("path", ["/v1/session", "/relay/anthropic/v1/models"])
    async def test_cost_no_more_than_their_size(self, anyone: Tenant, path: str) -> None:
        for name, token in worst_tokens():
            costs = Costs(replace(anyone, token=token))
            await costs.send(name, "get", path)

            assert costs.exceeded == []
