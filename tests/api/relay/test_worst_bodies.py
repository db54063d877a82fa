"""No body takes the event loop from other requests of the relay, whatever it contains."""

import gc
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from typing import Any

import pytest

from app.core.services import Services
from app.main import create_app
from tests.support.fault_injection import sampled_cases
from tests.support.relay.relay_service import RelayUser
from tests.support.request_cost import cost_of
from tests.support.worst_bodies import worst_bodies
from tests.support.worst_requests import send_raw

LOOP_SECONDS, MEMORY_MEBIBYTES, RESPONSE_BYTES = 0.2, 64, 16 * 1024
MEBIBYTE = 1024 * 1024
# `make test` tests another eighth of the bodies every day, and `make test-exhaustive` tests all.
STRIDE = 8


def _objects(**fields: Any) -> Mapping[str, Any]:
    return {"properties": fields}


def _text(example: str) -> Mapping[str, Any]:
    return {"examples": [example]}


_SOURCE = _objects(type=_text("base64"), data=_text("aGVsbG8="))
_BLOCK = _objects(
    type=_text("image"), source=_SOURCE, content={"type": "array", "items": _objects(type=_text("text"))}
)
_MESSAGE = _objects(role=_text("user"), content={"type": "array", "items": _BLOCK})
REQUEST = _objects(
    model=_text("claude-haiku-5-5"),
    max_tokens={"examples": [100]},
    stream={"examples": [True]},
    messages={"type": "array", "items": _MESSAGE},
)


@pytest.fixture(autouse=True, scope="module")
def _frozen_objects(relay_services: Services) -> Iterator[None]:  # made before they are frozen
    """The garbage collector skips existing objects, as in the service."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.slow
@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens"])
@pytest.mark.parametrize(
    ("mebibytes", "places"), [(1, ("",)), (31, ("the body", "messages:", "messages.0.content.0.content:"))]
)
async def test_body_never_uses_the_loop_for_long(
    path: str,
    mebibytes: int,
    places: tuple[str, ...],
    relay_services: Services,
    make_relay_user: Callable[[], RelayUser],
) -> None:
    """The organization has no key, so nothing is sent on."""
    user = make_relay_user()
    app = create_app(nullcontext(relay_services))
    app.state.services = relay_services
    headers = {"x-api-key": user.token.encode(), "content-type": b"application/json"}
    exceeded: list[str] = []
    bodies = [it for it in worst_bodies(REQUEST, {}, mebibytes * MEBIBYTE) if it[0].startswith(places)]
    for name, make_body in sampled_cases(bodies, stride=STRIDE, of=path):
        body = make_body()
        response, cost = await cost_of(send_raw(app, "POST", f"/relay/anthropic{path}", headers, body))
        is_small = 400 <= response.status < 500 and response.size < RESPONSE_BYTES
        is_cheap = cost.longest_seconds <= LOOP_SECONDS and cost.memory_mebibytes <= MEMORY_MEBIBYTES
        if not (is_small and is_cheap):
            exceeded.append(f"{name}: {response}, {cost}")

    assert exceeded == []
