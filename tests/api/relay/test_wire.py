"""What SDKs, Claude Code and curl put on the wire besides the message: query, headers, framing, and paths of other APIs."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.support.relay.relay_service import RelayUser, error_of, request
from tests.support.relay.scripted_provider import MODEL, message

# As Claude Code sends them. The first ones reach the provider, unchanged.
FORWARDED = {
    "accept": "application/json",
    "anthropic-beta": "claude-code-20250219,context-1m-2025-08-07,effort-2025-11-24",
    "anthropic-version": "2023-06-01",
    "user-agent": "claude-cli/2.1.77 (external, cli)",
    "x-stainless-arch": "x64",
    "x-stainless-helper-method": "stream",
    "x-stainless-lang": "js",
    "x-stainless-retry-count": "0",
    "x-stainless-timeout": "600",
}
DROPPED = {
    "accept-encoding": "gzip, deflate, br, zstd",
    "accept-language": "*",
    "anthropic-dangerous-direct-browser-access": "true",
    "sec-fetch-mode": "cors",
    "x-app": "cli",
    "x-claude-code-session-id": "0199a2b4-c6d8-7e01-a2b3-c4d5e6f70819",
}
OTHER_APIS = [
    ("POST", "/v1/messages/batches?beta=true"),
    ("GET", "/v1/messages/batches"),
    ("GET", "/v1/messages/batches/msgbatch_1/results"),
    ("POST", "/v1/messages/batches/msgbatch_1/cancel"),
    ("DELETE", "/v1/messages/batches/msgbatch_1"),
    ("POST", "/v1/files?beta=true"),
    ("GET", "/v1/files/file_1/content"),
    ("POST", "/v1/skills?beta=true"),
    ("POST", "/v1/complete"),
    ("HEAD", "/api/hello"),
    ("GET", "/api/oauth/profile"),
]


class TestClaudeCode:
    async def test_is_served_with_its_headers_and_its_query(self, user: RelayUser) -> None:
        await user.save_key()
        body = request(metadata={"user_id": "user_1"}, system=[{"type": "text", "text": "x"}])

        response = await user.send(body, headers=FORWARDED | DROPPED, path="/v1/messages?beta=true")

        assert response.status_code == 200, response.text
        received = user.provider.messages()[-1]
        assert received.target == "/v1/messages?beta=true"
        assert FORWARDED.items() <= received.headers.items()
        assert received.headers["accept-encoding"] == "identity"
        assert not (DROPPED.keys() - {"accept-encoding"}) & received.headers.keys()

    async def test_lists_models_for_its_picker(self, user: RelayUser) -> None:
        await user.save_key()

        listed = await user.admin.http.get(
            "/relay/anthropic/v1/models?limit=1000", headers={"authorization": f"Bearer {user.token}"}
        )

        assert listed.status_code == 200
        assert user.provider.exchanges[-1].target == "/v1/models?limit=1000"


class TestOtherApis:
    @pytest.mark.parametrize(("method", "path"), OTHER_APIS)
    async def test_are_refused_in_anthropics_envelope(self, user: RelayUser, method: str, path: str) -> None:
        before = len(user.provider.exchanges)

        response = await user.admin.http.request(
            method, f"/relay/anthropic{path}", headers={"x-api-key": user.token}
        )

        assert response.status_code == 404
        assert response.headers["x-should-retry"] == "false"
        assert response.headers["byok-error-source"] == "relay"
        if method != "HEAD":
            assert error_of(response) == (404, "not_found_error", "not_found")
            assert "/v1/messages" in response.json()["error"]["message"]
        assert len(user.provider.exchanges) == before

    async def test_leave_the_connection_usable_although_their_body_is_not_read(self, user: RelayUser) -> None:
        """An upload is refused before its body, which still arrives on the connection."""
        await user.save_key()
        upload = b"--b\r\ncontent-type: text/plain\r\n\r\n" + b"x" * 300_000 + b"\r\n--b--\r\n"
        files = _head(user, "POST", "/v1/files", f"content-length: {len(upload)}", "multipart/form-data")
        body = b'{"model":"%b","max_tokens":1,"messages":[]}' % MODEL.encode()
        call = _head(user, "POST", "/v1/messages", f"content-length: {len(body)}") + body

        reader, writer = await _connect(user)
        writer.write(files + upload)
        refused = await _response(reader)
        writer.write(call)
        served = await _response(reader)
        writer.close()

        assert refused.startswith(b"HTTP/1.1 404 ")
        assert served.startswith(b"HTTP/1.1 200 ")


class TestFraming:
    async def test_expect_100_continue_gets_it_before_the_body(self, user: RelayUser) -> None:
        """curl sends it with bodies over 1 MB, and waits for a second."""
        await user.save_key()
        body = b'{"model":"%b","max_tokens":1,"messages":[]}' % MODEL.encode()
        reader, writer = await _connect(user)

        writer.write(
            _head(user, "POST", "/v1/messages", f"content-length: {len(body)}\r\nexpect: 100-continue")
        )
        async with asyncio.timeout(5):
            interim = await reader.readuntil(b"\r\n\r\n")
        writer.write(body)
        final = await _response(reader)
        writer.close()

        assert interim.startswith(b"HTTP/1.1 100 ")
        assert final.startswith(b"HTTP/1.1 200 ")

    async def test_expect_100_continue_without_a_token_gets_only_the_refusal(self, user: RelayUser) -> None:
        reader, writer = await _connect(user)
        writer.write(
            b"POST /relay/anthropic/v1/messages HTTP/1.1\r\nhost: relay\r\ncontent-length: 10\r\n"
            b"content-type: application/json\r\nexpect: 100-continue\r\n\r\n"
        )
        refused = await _response(reader)
        writer.close()

        assert refused.startswith(b"HTTP/1.1 401 ")

    async def test_a_chunked_body_is_sent_on_with_its_length(self, user: RelayUser) -> None:
        """Runtimes that stream their bodies do not know a length."""
        await user.save_key()
        body = b'{"model":"%b","max_tokens":1,"messages":[]}' % MODEL.encode()

        async def parts() -> AsyncIterator[bytes]:
            for at in range(0, len(body), 7):
                yield body[at : at + 7]

        response = await user.admin.http.post(
            "/relay/anthropic/v1/messages", headers=user.headers(), content=parts()
        )

        assert response.json() == message()
        received = user.provider.messages()[-1]
        assert (received.body, received.headers["content-length"]) == (body, str(len(body)))
        assert "transfer-encoding" not in received.headers

    async def test_pipelined_calls_get_their_responses_in_order(self, user: RelayUser) -> None:
        await user.save_key()
        body = b'{"model":"%b","max_tokens":1,"messages":[]}' % MODEL.encode()
        call = _head(user, "POST", "/v1/messages", f"content-length: {len(body)}") + body
        reader, writer = await _connect(user)

        writer.write(call + _head(user, "GET", "/v1/models", "x-a: b") + call)
        responses = [await _response(reader) for _ in range(3)]
        writer.close()

        assert [it[:13] for it in responses] == [b"HTTP/1.1 200 "] * 3
        assert b'"has_more"' in responses[1]


class TestEncodedBody:
    async def test_is_refused_with_what_to_do(self, user: RelayUser) -> None:
        await user.save_key()
        before = len(user.provider.messages())

        response = await user.send(headers={"content-encoding": "gzip"})

        assert error_of(response) == (415, "invalid_request_error", "unsupported_media_type")
        assert "without a content encoding" in response.json()["error"]["message"]
        assert len(user.provider.messages()) == before


async def _connect(user: RelayUser) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    url = user.admin.http.base_url
    return await asyncio.open_connection(url.host, url.port)


def _head(
    user: RelayUser, method: str, path: str, fields: str, content_type: str = "application/json"
) -> bytes:
    return (
        f"{method} /relay/anthropic{path} HTTP/1.1\r\nhost: relay\r\nx-api-key: {user.token}\r\n"
        f"content-type: {content_type}\r\n{fields}\r\n\r\n"
    ).encode()


async def _response(reader: asyncio.StreamReader) -> bytes:
    """Head and body of the next response, which has a length."""
    async with asyncio.timeout(10):
        head = await reader.readuntil(b"\r\n\r\n")
        (length,) = (
            int(line.partition(b":")[2])
            for line in head.lower().split(b"\r\n")
            if line.startswith(b"content-length:")
        )
        return head + await reader.readexactly(length)
