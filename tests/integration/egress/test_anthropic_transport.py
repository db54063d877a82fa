"""Failures before or during a response: TLS, connections, and hostile bytes."""

import asyncio
import json
import logging
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
import respx
import trustme

from app.core.url_errors import UrlReason
from app.credentials.validation_results import Reason
from app.egress.anthropic import MAX_RESPONSE_BYTES, AnthropicClient
from app.egress.exceptions import (
    CircuitOpen,
    DestinationRefused,
    NameLookupFailed,
    NameNotFound,
    ResponseTooLarge,
)
from app.egress.http_client import http_client
from tests.support.provider.fake_anthropic import make_key, serve
from tests.support.provider.probes import (
    never_respond,
    raw_server,
    refusing_port,
    reset_connection,
    respond_with,
    send_probe,
)

OK = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
EMPTY_LIST = OK + b'content-length: 12\r\n\r\n{"data": []}'


@pytest.fixture
async def client() -> AsyncIterator[AnthropicClient]:
    async with http_client() as http:
        yield AnthropicClient(http)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def ca_file(authority: trustme.CA, tmp_path: Path) -> Path:
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(path)
    return path


def certificate(authority: trustme.CA, name: str, path: Path) -> Path:
    authority.issue_cert(name).private_key_and_cert_chain_pem.write_to_path(path)
    return path


async def reason_at(client: AnthropicClient, url: str, timeout_seconds: float = 15.0) -> Reason | None:
    return (await send_probe(client, url, make_key("valid"), timeout_seconds=timeout_seconds)).reason


def resolution_error() -> httpx.ConnectError:
    failure = httpx.ConnectError("no such name")
    failure.__cause__ = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    return failure


class TestTls:
    async def test_certificate_of_the_additional_authority_is_trusted(
        self, authority: trustme.CA, ca_file: Path, tmp_path: Path
    ) -> None:
        pem = certificate(authority, "127.0.0.1", tmp_path / "server.pem")

        async with serve(certificate=pem) as served, http_client(ca_file=ca_file) as http:
            assert await reason_at(AnthropicClient(http), served.base_url) is Reason.OK

    async def test_connection_secrets_are_not_written_to_a_file(
        self, monkeypatch: pytest.MonkeyPatch, authority: trustme.CA, ca_file: Path, tmp_path: Path
    ) -> None:
        pem = certificate(authority, "127.0.0.1", tmp_path / "server.pem")
        monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "secrets"))

        async with serve(certificate=pem) as served, http_client(ca_file=ca_file) as http:
            assert await reason_at(AnthropicClient(http), served.base_url) is Reason.OK

        assert not (tmp_path / "secrets").exists()

    async def test_self_signed_certificate_is_refused(
        self, client: AnthropicClient, authority: trustme.CA, tmp_path: Path
    ) -> None:
        pem = certificate(authority, "127.0.0.1", tmp_path / "server.pem")

        async with serve(certificate=pem) as served:
            assert await reason_at(client, served.base_url) is Reason.TLS_ERROR
            assert served.fake.journal == []

    async def test_certificate_for_another_name_is_refused(
        self, authority: trustme.CA, ca_file: Path, tmp_path: Path
    ) -> None:
        pem = certificate(authority, "elsewhere.example", tmp_path / "server.pem")

        async with serve(certificate=pem) as served, http_client(ca_file=ca_file) as http:
            assert await reason_at(AnthropicClient(http), served.base_url) is Reason.TLS_ERROR
            assert served.fake.journal == []

    async def test_alert_of_the_peer_is_a_tls_error(self, client: AnthropicClient) -> None:
        async def send_alert(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(1)
            writer.write(b"\x15\x03\x01\x00\x02\x02\x46")  # fatal alert: protocol_version
            await writer.drain()

        async with raw_server(send_alert) as port:
            assert await reason_at(client, f"https://127.0.0.1:{port}") is Reason.TLS_ERROR

    async def test_old_protocol_versions_are_not_offered(self) -> None:
        async with http_client() as http:
            context = http._transport._pool._ssl_context  # type: ignore[attr-defined]  # no public API

        assert context.minimum_version is ssl.TLSVersion.TLSv1_2

    async def test_server_without_tls_is_a_tls_error(self, client: AnthropicClient) -> None:
        async def respond_without_tls(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            await writer.drain()

        async with raw_server(respond_without_tls) as port:
            assert await reason_at(client, f"https://127.0.0.1:{port}") is Reason.TLS_ERROR

    async def test_connection_closed_in_the_handshake_is_unreachable(self, client: AnthropicClient) -> None:
        async def close_early(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
            await reader.read(1)

        async with raw_server(close_early) as port:
            assert await reason_at(client, f"https://127.0.0.1:{port}") is Reason.UNREACHABLE

    async def test_stalled_handshake_is_a_timeout(self, client: AnthropicClient) -> None:
        async with raw_server(never_respond) as port:
            assert await reason_at(client, f"https://127.0.0.1:{port}", 0.2) is Reason.TIMEOUT


class TestConnection:
    async def test_refused_connection_is_unreachable(self, client: AnthropicClient) -> None:
        with refusing_port() as port:
            assert await reason_at(client, f"http://127.0.0.1:{port}") is Reason.UNREACHABLE

    async def test_accepted_connection_without_response_is_a_timeout(self, client: AnthropicClient) -> None:
        async with raw_server(never_respond) as port:
            assert await reason_at(client, f"http://127.0.0.1:{port}", 0.2) is Reason.TIMEOUT

    async def test_slow_response_is_cut_off_at_the_deadline(self, client: AnthropicClient) -> None:
        async def send_slowly(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(OK + b"\r\n")
            while not writer.is_closing():
                writer.write(b" ")
                await writer.drain()
                await asyncio.sleep(
                    0.01
                )  # each read meets its timeout, but the whole response exceeds the deadline

        async with raw_server(send_slowly) as port:
            assert await reason_at(client, f"http://127.0.0.1:{port}", 0.3) is Reason.TIMEOUT

    async def test_one_reset_is_retried(self, client: AnthropicClient) -> None:
        connections = 0

        async def reset_peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal connections
            connections += 1
            if connections == 1:
                reset_connection(writer)
            else:
                await respond_with(EMPTY_LIST)(reader, writer)

        async with raw_server(reset_peer) as port:
            assert await reason_at(client, f"http://127.0.0.1:{port}") is Reason.OK

    async def test_second_reset_is_unreachable(self, client: AnthropicClient) -> None:
        connections = 0

        async def reset_peer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal connections
            connections += 1
            reset_connection(writer)

        async with raw_server(reset_peer) as port:
            assert await reason_at(client, f"http://127.0.0.1:{port}") is Reason.UNREACHABLE
        assert connections == 2

    @pytest.mark.parametrize(
        ("failure", "reason"),
        [
            (DestinationRefused(UrlReason.DNS_PRIVATE_ADDRESS), Reason.ADDRESS_REFUSED),
            (NameLookupFailed(), Reason.DNS_UNAVAILABLE),
            (NameNotFound(), Reason.UNREACHABLE),
            (ResponseTooLarge(), Reason.UNREACHABLE),
            (CircuitOpen(), Reason.TIMEOUT),
            (resolution_error(), Reason.UNREACHABLE),
        ],
        ids=lambda value: type(value).__name__,
    )
    @respx.mock
    async def test_network_exceptions_have_their_reason(
        self, client: AnthropicClient, failure: httpx.TransportError, reason: Reason
    ) -> None:
        route = respx.get("https://provider.example/v1/models").mock(side_effect=failure)

        assert await reason_at(client, "https://provider.example") is reason
        assert route.call_count == 1


class TestHostileBytes:
    @pytest.mark.parametrize(
        ("response", "reason"),
        [
            (b"SSH-2.0-OpenSSH_9.9\r\n", Reason.UNREACHABLE),
            (b"", Reason.UNREACHABLE),
            (OK + b"content-length: 100\r\n\r\n{", Reason.UNREACHABLE),
            (OK + b"x: " + b"y" * 200_000 + b"\r\n\r\n{}", Reason.UNREACHABLE),
            (OK + b"\r\n" + b"[" * MAX_RESPONSE_BYTES, Reason.UNEXPECTED_ANSWER),
            (OK + b"\r\n" + b"9" * 10_000, Reason.UNEXPECTED_ANSWER),
            (OK + b'\r\n{"data": ["\xff\xfe"]}', Reason.NOT_ANTHROPIC_COMPATIBLE),
            (OK + b"content-encoding: gzip\r\n\r\n" + b"\x1f\x8b\x08", Reason.UNEXPECTED_ANSWER),
            (OK + b"\r\n", Reason.UNEXPECTED_ANSWER),
            (b"HTTP/1.1 304 Not Modified\r\n\r\n", Reason.REDIRECT_REFUSED),
        ],
        ids=[
            "ssh",
            "nothing",
            "cut",
            "long header",
            "deep",
            "big number",
            "bad utf-8",
            "gzip",
            "empty",
            "304",
        ],
    )
    async def test_give_a_reason_and_no_exception(
        self, client: AnthropicClient, response: bytes, reason: Reason
    ) -> None:
        async with raw_server(respond_with(response)) as port:
            assert await reason_at(client, f"http://127.0.0.1:{port}") is reason

    async def test_malformed_location_is_never_valid(self, client: AnthropicClient) -> None:
        response = b"HTTP/1.1 307 Moved\r\nlocation: https://oops:port/\r\ncontent-length: 0\r\n\r\n"

        async with raw_server(respond_with(response)) as port:
            assert await reason_at(client, f"http://127.0.0.1:{port}") is Reason.UNREACHABLE

    async def test_key_echoed_in_the_status_line_is_not_logged(
        self, client: AnthropicClient, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG)
        key = make_key("valid")
        body = json.dumps({"error": {"message": f"Bad key {key}", "type": key}}).encode()
        head = b"HTTP/1.1 401 " + key.encode() + b"\r\nset-cookie: " + key.encode() + b"\r\n"
        response = head + b"content-length: " + str(len(body)).encode() + b"\r\n\r\n" + body

        async with raw_server(respond_with(response)) as port:
            result = await send_probe(client, f"http://127.0.0.1:{port}", key)

        assert result.reason is Reason.INVALID_KEY
        assert key not in caplog.text
