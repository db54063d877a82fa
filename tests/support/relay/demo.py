"""The part of `make demo` in which an unchanged Anthropic SDK works on an organization's key through the relay."""

import asyncio
from dataclasses import dataclass
from typing import Any, Protocol

import anthropic

from tests.support.processes.commands import byok
from tests.support.processes.service import Service, until
from tests.support.provider.fake_anthropic import FakeAnthropic, make_key

ORGANIZATION = "org_initech"
MODEL = "claude-haiku-5-5"
QUESTION: Any = [{"role": "user", "content": "Say hello"}]
# The least that no call can be reserved for.
TINY = {"amount": "0.000001", "currency": "USD"}


class Demo(Protocol):
    """Prints the steps and their results."""

    def step(self, title: str) -> None:
        """Begin a step."""

    def show(self, name: str, value: object) -> None:
        """Print a value."""

    def expect(self, expectation: str, *, holds: bool) -> None:
        """Print whether the expectation holds."""


@dataclass(frozen=True, kw_only=True)
class Relay:
    """An organization with a key, and the SDK that points at the relay."""

    service: Service
    fake: FakeAnthropic
    sdk: anthropic.AsyncAnthropic
    key: str
    credential_id: str
    token: str

    async def admin(self, method: str, path: str, body: Any = None) -> Any:
        url = f"/v1/organizations/{ORGANIZATION}/{path}"
        response = await self.service.request(method, url, json=body)
        assert response.is_success, response.text
        return response.json() if response.content else None

    def for_feature(self, feature: str) -> anthropic.AsyncAnthropic:
        return self.sdk.with_options(default_headers={"X-Byok-Feature": feature})


async def use_the_key_with_an_sdk(demo: Demo, service: Service, fake: FakeAnthropic) -> None:
    """Call, stream, hit a limit, rotate under a running stream, and read the report."""
    relay = await _set_up(service, fake)
    try:
        await _call(demo, relay)
        await _stream(demo, relay)
        await _hit_a_limit(demo, relay)
        await _rotate_under_a_stream(demo, relay)
        await _read_the_report(demo, relay)
    finally:
        await relay.sdk.close()


async def _set_up(service: Service, fake: FakeAnthropic) -> Relay:
    key = make_key()
    saved = (await service.save(ORGANIZATION, key)).json()
    mode = {"mode": "byo", "credential_id": saved["id"]}
    await service.request("PUT", f"/v1/organizations/{ORGANIZATION}/usage-mode", json=mode)
    arguments = ("token", "--organization", ORGANIZATION, "--scope", "relay:messages")
    token = (await byok(*arguments, cwd=service.home, **service.environment)).stdout.strip()
    sdk = anthropic.AsyncAnthropic(base_url=f"{service.url}/relay/anthropic", api_key=token)
    return Relay(service=service, fake=fake, sdk=sdk, key=key, credential_id=saved["id"], token=token)


async def _call(demo: Demo, relay: Relay) -> None:
    demo.step("Call the provider with the Anthropic SDK: `base_url` is the relay, `api_key` is a token")
    message = await relay.for_feature("call").messages.create(model=MODEL, max_tokens=50, messages=QUESTION)
    demo.show("response", f"{message.content[0].text!r}, {message.usage.output_tokens} output tokens")  # type: ignore[union-attr]
    used = relay.fake.received_keys()[-1]
    demo.expect("the provider received the organization's key, not the token", holds=used == relay.key)


async def _stream(demo: Demo, relay: Relay) -> None:
    demo.step("Stream a response with a thinking block")
    thinking: Any = {"type": "enabled", "budget_tokens": 1024}
    async with relay.for_feature("stream").messages.stream(
        model=MODEL, max_tokens=2000, messages=QUESTION, thinking=thinking
    ) as stream:
        events = [event.type async for event in stream]
        final = await stream.get_final_message()
    demo.show("events", f"{len(events)}, from {events[0]} to {events[-1]}")
    demo.show("blocks", ", ".join(block.type for block in final.content))
    demo.expect("the stream is complete", holds=final.stop_reason == "end_turn")


async def _hit_a_limit(demo: Demo, relay: Relay) -> None:
    demo.step("Set a spend limit that leaves no room, and call again")
    body = {
        "name": "Tiny",
        "amount": TINY,
        "period": "total",
        "scope": {"usage_mode": "any"},
        "enforcement": "block",
    }
    limit = await relay.admin("POST", "spend-limits", body)
    before = len(relay.fake.journal)
    try:
        await relay.sdk.messages.create(model=MODEL, max_tokens=50, messages=QUESTION)
        demo.expect("the SDK raises an error", holds=False)
    except anthropic.APIStatusError as error:
        details: Any = error.body
        demo.show("error", f"{type(error).__name__}: {details['error']['details']['error_code']}")
        demo.expect(
            "the error is 402 and names the limit", holds=details["error"]["details"]["limit_name"] == "Tiny"
        )
    demo.expect("the provider received no request", holds=len(relay.fake.journal) == before)
    await relay.admin("DELETE", f"spend-limits/{limit['id']}")


async def _rotate_under_a_stream(demo: Demo, relay: Relay) -> None:
    demo.step("Rotate the key while a stream is running")
    relay.fake.behave(relay.key, "stall")
    running = asyncio.create_task(_text_of(relay.for_feature("rotation")))
    before = len(relay.fake.received_keys())
    await until(lambda: len(relay.fake.received_keys()) > before, "the provider streams")
    key = make_key()
    rotation = {"api_key": key, "activate": "when_valid"}
    rotated = await relay.admin("POST", f"provider-credentials/{relay.credential_id}/rotations", rotation)
    demo.show("rotation", f"{rotated['state']}, key version {rotated['key_version']}")
    relay.fake.release.set()
    demo.expect("the stream ends complete, on the old key", holds=await running == "Hello wörld")
    await relay.for_feature("rotation").messages.create(model=MODEL, max_tokens=50, messages=QUESTION)
    demo.expect("the next call uses the new key", holds=relay.fake.received_keys()[-1] == key)


async def _text_of(sdk: anthropic.AsyncAnthropic) -> str:
    async with sdk.messages.stream(model=MODEL, max_tokens=50, messages=QUESTION) as stream:
        return "".join([text async for text in stream.text_stream])


async def _read_the_report(demo: Demo, relay: Relay) -> None:
    demo.step("Read the usage report: every call is in it, by the feature that the SDK sends as a header")
    report = "usage-report?starting_at=2020-01-01T00:00:00Z&bucket_width=all&group_by[]=feature"

    async def requests() -> dict[str, int]:
        data = (await relay.admin("GET", report))["data"]
        return {row["feature"]: row["requests"] for bucket in data for row in bucket["results"]}

    async def is_settled() -> bool:
        return sum((await requests()).values()) == 4

    await until(is_settled, "the calls are settled")
    for feature, count in sorted((await requests()).items()):
        demo.show(feature, f"{count} requests")
    demo.expect(
        "there is one usage event for each call, and none for the refused one",
        holds=await requests() == {"call": 1, "stream": 1, "rotation": 2},
    )
