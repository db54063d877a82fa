"""Traces: the span of a request continues the trace of its caller."""

import json
from typing import Any

import pytest

from tests.support.output_sinks import Sinks, capture_spans
from tests.support.tenant import Tenant

TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


async def span_of_request(tenant: Tenant, traceparent: str) -> dict[str, Any]:
    sinks = Sinks()
    with capture_spans(sinks):
        response = await tenant.get(f"{tenant.path}/usage-mode", headers={"traceparent": traceparent})
    spans: list[dict[str, Any]] = [json.loads(content) for content in sinks.contents["spans"]]
    return next(
        it for it in spans if it["attributes"].get("byok.request_id") == response.headers["X-Request-Id"]
    )


class TestTraceparent:
    async def test_is_the_parent_of_the_request(self, tenant: Tenant) -> None:
        span = await span_of_request(tenant, f"00-{TRACE}-{CALLER}-01")

        assert (span["context"]["trace_id"], span["parent_id"]) == (f"0x{TRACE}", f"0x{CALLER}")

    @pytest.mark.parametrize(
        "traceparent", ["garbage", f"00-{'0' * 32}-{CALLER}-01", f"ff-{TRACE}-{CALLER}-01"]
    )
    async def test_that_is_invalid_starts_a_new_trace(self, tenant: Tenant, traceparent: str) -> None:
        span = await span_of_request(tenant, traceparent)

        assert span["parent_id"] is None
        assert span["context"]["trace_id"] != f"0x{TRACE}"
