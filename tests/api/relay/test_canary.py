"""Keys, tokens and the text of prompts appear in no output of the service, whatever happens to a call."""

import asyncio
import json
import secrets

import httpx
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.observability.metrics import metrics_text
from tests.support.canary import PUBLISHED, Detector, make_canary
from tests.support.output_sinks import Sinks, capture_logs, capture_spans, next_transaction, tables_of
from tests.support.polling import resolved, until
from tests.support.relay.relay_service import RelayUser, WithSettings, request
from tests.support.relay.scripted_provider import Exchange, error, events, message, stream


async def test_no_output_contains_key_token_or_prompt(
    user: RelayUser, superuser: AsyncEngine, with_settings: WithSettings
) -> None:
    sinks, key, prompt = Sinks(), make_canary(), secrets.token_urlsafe(48)
    before = await next_transaction(superuser)
    detector = Detector(
        {
            "key": key,
            "prompt": _after_published(prompt),
            "token": _after_published(user.token.rpartition(".")[2]),
        }
    )
    with capture_logs(sinks), capture_spans(sinks):
        # A server that starts after the log is configured, as `byok serve` does.
        async with with_settings(user) as instance:
            await instance.save_key(api_key=key)
            await call_in_every_way(instance, prompt, key)
            await instance.events()
            await instance.relay.services.key_reports.reported()
    sinks.add("metrics", metrics_text())
    async for table, rows in tables_of(superuser, since=before):
        sinks.add(f"table {table}", rows)

    assert sinks.contains("log records", "/relay/anthropic/v1/messages")
    assert sinks.contains("spans", "relay.provider_request")
    assert sinks.leaks(detector) == []


@pytest.mark.parametrize("name", ["key", "prompt"])
def test_the_detector_finds_a_leak(name: str) -> None:
    text = _after_published(secrets.token_urlsafe(48))

    assert Detector({name: text}).search("log records", f"... {text[20:40]} ...")


def _after_published(text: str) -> str:
    """The text after characters that the detector does not search for."""
    return secrets.token_hex(PUBLISHED)[:PUBLISHED] + text


async def call_in_every_way(user: RelayUser, prompt: str, key: str) -> None:
    """Succeed, fail and abort, with a provider that repeats what it got."""

    async def echo(exchange: Exchange) -> None:
        headers = {"x-echo": key, "request-id": key, "anthropic-echo": key}
        await exchange.respond(
            400, error("invalid_request_error", f"{prompt} {key}", error_code=key), headers
        )

    async def echo_model(exchange: Exchange) -> None:
        usage = {"input_tokens": 1, "output_tokens": 1, "service_tier": key, "note": f"{prompt} {key}"}
        await exchange.respond(200, message(text=prompt, model=key, usage=usage))

    async def malformed(exchange: Exchange) -> None:
        await exchange.raw(f"HTTP/1.1 {key} {prompt}\r\n{key}\r\n\r\n".encode())
        exchange.cut()

    async def cut(exchange: Exchange) -> None:
        await stream(exchange, events(prompt, key, is_complete=False), is_ended=False)
        exchange.cut()

    async def hold(exchange: Exchange) -> None:
        await exchange.until_hung_up()

    body = request(messages=[{"role": "user", "content": prompt}], system=prompt)
    for name, script in (("echo", echo), ("echo-model", echo_model), ("malformed", malformed)):
        await user.send(body, headers=user.provider.script(f"canary-{name}", script))
    async with user.stream(headers=user.provider.script("canary-cut", cut), system=prompt) as response:
        async for _ in response.aiter_raw():
            pass
    sending = asyncio.create_task(user.send(body, headers=user.provider.script("canary-hold", hold)))
    await user.provider.nth("canary-hold")
    sending.cancel()
    await until(lambda: resolved(user.relay.services.capacity.open_requests), lambda it: it == 0)
    await user.send(json.dumps(body)[:-5].encode())
    await user.send(body | {"model": f"{prompt}\n"})
    await user.send(body | {"max_tokens": prompt})
    await user.send(body, headers={"x-byok-feature": prompt * 4})
    await user.send(body, headers={"x-api-key": f"{user.token}x"})
    await user.send(body, path=f"/v1/messages/{prompt}")
    with pytest.raises(httpx.HTTPError):
        await user.admin.http.post("/relay/anthropic/v1/messages", headers={"x-api-key": f"{key}\n"})
