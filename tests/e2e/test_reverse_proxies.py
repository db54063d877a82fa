"""nginx and HAProxy before two processes of the service, as docs/how-to/reverse-proxy.md sets them up."""

import asyncio
import json
import signal
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from functools import partial
from uuid import uuid4

import httpx
import pytest
import trustme

from app.auth.principal import Scope
from tests.support.fault_injection import sampled_cases
from tests.support.network.reverse_proxies import PROXIES, Proxy, program, proxy_before
from tests.support.processes.commands import byok
from tests.support.processes.service import Service, running, sharing_data_with, until
from tests.support.provider.fake_anthropic import make_key
from tests.support.relay.relay_service import request
from tests.support.relay.scripted_provider import Exchange, ScriptedProvider, events, serve_scripted

ORGANIZATION = "org_acme"
PREFIX = f"/v1/organizations/{ORGANIZATION}"
MEBIBYTE = 1024 * 1024


@pytest.fixture(scope="module")
async def provider() -> AsyncIterator[ScriptedProvider]:
    async with serve_scripted() as scripted:
        yield scripted


@pytest.fixture(scope="module")
async def services(provider: ScriptedProvider) -> AsyncIterator[tuple[Service, Service]]:
    async with (
        running(PROVIDER__DEFAULT_BASE_URL=provider.base_url, PAGE__ENABLED="true") as first,
        sharing_data_with(first, "serve") as second,
    ):
        await second.start()
        yield first, second


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module", params=list(sampled_cases(PROXIES, stride=2, of="reverse proxies")))
def proxy(
    request: pytest.FixtureRequest,
    services: tuple[Service, Service],
    authority: trustme.CA,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Proxy]:
    if program(request.param) is None:
        pytest.skip(f"needs the Debian package {request.param}")
    certificate = tmp_path_factory.mktemp("tls") / "proxy.pem"
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(certificate)
    with proxy_before(request.param, certificate, *(service.port for service in services)) as running_proxy:
        yield running_proxy


@pytest.fixture
async def http(
    proxy: Proxy, services: tuple[Service, Service], authority: trustme.CA
) -> AsyncIterator[httpx.AsyncClient]:
    """An admin and internal service of all organizations."""
    context = ssl.create_default_context()
    authority.configure_trust(context)
    token = await services[0].token("billing-admin", "*", *Scope)
    async with httpx.AsyncClient(
        base_url=proxy.url,
        verify=context,
        trust_env=False,
        timeout=60,
        headers={"Authorization": f"Bearer {token}"},
    ) as client:
        yield client


async def test_serves_the_api(http: httpx.AsyncClient) -> None:
    saved = await http.post(f"{PREFIX}/provider-credentials", json={"label": "Acme", "api_key": make_key()})
    read = await http.get(saved.headers["location"])
    page = await http.get("/billing")

    assert (saved.status_code, read.status_code, page.status_code) == (201, 200, 200)
    assert read.headers["etag"] == saved.headers["etag"]


@pytest.mark.parametrize(
    "path",
    [
        *("/", "/metrics", "/readyz", "/livez", "/docs", "/openapi.json", "/billings"),
        *("/v1/../metrics", "/v1/%2e%2e/metrics", "/v1//../metrics", "//metrics", "/relay/..%2fmetrics"),
    ],
)
async def test_forwards_nothing_else(proxy: Proxy, authority: trustme.CA, path: str) -> None:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    port = int(proxy.url.rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: byok.example.com\r\nConnection: close\r\n\r\n".encode())

    response = await reader.read()

    writer.close()
    # HAProxy passes on a path with dot segments as it is, and the service has no such path.
    assert response.split(b" ")[1] in (b"401", b"404"), response


async def test_passes_on_a_stream_while_it_is_written(
    http: httpx.AsyncClient, services: tuple[Service, Service], provider: ScriptedProvider
) -> None:
    may_end = asyncio.Event()

    async def in_two_parts(exchange: Exchange) -> None:
        await exchange.head(200, {"content-type": "text/event-stream; charset=utf-8"})
        first, *others = events("Hello", "world")
        await exchange.chunk(first)
        await may_end.wait()
        for part in others:
            await exchange.chunk(part)
        await exchange.end()

    headers = provider.script("two-parts", in_two_parts)
    body = request() | {"stream": True}

    token = await relay_token(services[0])
    async with http.stream(
        "POST",
        "/relay/anthropic/v1/messages",
        json=body,
        headers=headers | {"Authorization": f"Bearer {token}"},
    ) as response:
        parts = response.aiter_bytes()
        received = await anext(parts)
        may_end.set()
        rest = b"".join([part async for part in parts])

    assert received.startswith(b"event: message_start")
    assert rest.endswith(b'{"type": "message_stop"}\n\n')


async def relay_token(service: Service) -> str:
    """A token of an organization that pays with its own key."""
    organization = f"org_{uuid4().hex[:16]}"
    saved = await service.save(organization, make_key())
    mode = {"mode": "byo", "credential_id": saved.json()["id"]}
    await service.request("PUT", f"/v1/organizations/{organization}/usage-mode", json=mode)
    arguments = ("--scope", "relay:messages", "--organization", organization)
    token = await byok("token", *arguments, cwd=service.home, **service.environment)
    assert token.code == 0, token.stderr
    return token.stdout.strip()


async def test_passes_on_large_bodies_and_leaves_no_trace_of_them(
    http: httpx.AsyncClient, proxy: Proxy
) -> None:
    marker = f"prompt-{uuid4().hex}"
    lines = [json.dumps(event(f"{marker}-{number}", feature="x" * 60)) for number in range(20_000)]
    body = "\n".join(lines).encode()
    assert len(body) > 4 * MEBIBYTE

    ingested = await http.post(
        f"{PREFIX}/usage-events", content=body, headers={"Content-Type": "application/x-ndjson"}
    )
    exported = await http.get(f"{PREFIX}/usage-events.csv", params={"feature[]": "x" * 60})

    assert (ingested.status_code, ingested.json()["accepted"]) == (200, len(lines))
    assert exported.text.count(marker) == len(lines)
    assert [path for path, text in proxy.files().items() if marker in text or "x" * 60 in text] == []


def event(event_id: str, **fields: object) -> dict[str, object]:
    return {
        "event_id": event_id,
        "started_at": datetime.now(UTC).isoformat(),
        "model": "claude-sonnet-4-5",
        "outcome": "succeeded",
        "usage": {"input_tokens": 10, "output_tokens": 5},
        **fields,
    }


async def test_opens_a_link_and_does_not_log_its_code(http: httpx.AsyncClient, proxy: Proxy) -> None:
    created = await http.post(f"{PREFIX}/usage-events.csv/links")
    path = created.json()["path"]

    opened = await http.get(path, headers={"Authorization": ""})
    await http.get(f"{PREFIX}/readiness")

    code = path.rpartition("/")[2]
    files = proxy.files().values()
    assert opened.status_code == 200, opened.text
    assert not any(code in text for text in files)
    assert any(f"{PREFIX}/readiness" in text for text in files)


async def test_passes_on_long_tokens(http: httpx.AsyncClient) -> None:
    """A token with many groups. The service, not the proxy, reads it."""
    response = await http.get(f"{PREFIX}/readiness", headers={"Authorization": f"Bearer {'x' * 24_000}"})

    assert (response.status_code, response.json()["code"]) == (401, "unauthenticated")


async def test_no_request_fails_while_the_processes_restart_one_after_the_other(
    http: httpx.AsyncClient, services: tuple[Service, Service]
) -> None:
    statuses: Counter[int] = Counter()
    is_over = asyncio.Event()

    async def work() -> None:
        while not is_over.is_set():
            body = {"events": [event(uuid4().hex)]}
            statuses[(await http.post(f"{PREFIX}/usage-events", json=body)).status_code] += 1

    workers = [asyncio.create_task(work()) for _ in range(4)]
    for service in services:
        assert await service.stop(signal.SIGTERM) == 0
        await service.start()
        # As a deployment waits until the proxy uses the new process.
        await until(partial(has_ingested, service), "the proxy uses the process again")
    is_over.set()
    await asyncio.gather(*workers)

    assert statuses.keys() == {200}, statuses


async def has_ingested(service: Service) -> bool:
    metrics = await service.http.get("/metrics")
    return 'byok_usage_events_total{status="accepted"}' in metrics.text
