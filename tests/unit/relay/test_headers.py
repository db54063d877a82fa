"""Which headers pass the relay."""

import pytest

from app.core.keys.api_key import ApiKey
from app.provider_url.endpoint import AuthStyle
from app.relay.headers import is_encoded, is_event_stream, request_id_of, to_client, to_provider

KEY = "sk-ant-api03-" + "k" * 93 + "AA"
TOKEN = "eyJhbGciOiJFZERTQSJ9.token.of-the-client"

# What the Python SDK 2.12, the TypeScript SDK 1.12 and a browser send, and what must not pass.
FROM_CLIENT = [
    (b"Host", b"relay.example.com"),
    (b"Authorization", b"Bearer " + TOKEN.encode()),
    (b"X-Api-Key", TOKEN.encode()),
    (b"Accept", b"application/json"),
    (b"Accept-Encoding", b"gzip, deflate"),
    (b"Accept-Language", b"*"),
    (b"Anthropic-Beta", b"files-api-2025-04-14,context-1m-2025-08-07"),
    (b"Anthropic-Dangerous-Direct-Browser-Access", b"true"),
    (b"Anthropic-Organization-Id", b"org"),
    (b"Anthropic-User-Profile-Id", b"profile"),
    (b"Anthropic-Version", b"2026-10-21"),
    (b"Anthropic-Workspace-Id", b"wrkspc_of_the_client"),
    (b"Connection", b"keep-alive"),
    (b"Content-Length", b"17"),
    (b"Content-Type", b"application/json"),
    (b"Cookie", b"session=secret"),
    (b"Origin", b"https://app.example.com"),
    (b"Referer", b"https://app.example.com/"),
    (b"Sec-Fetch-Mode", b"cors"),
    (b"Traceparent", b"00-1-2-01"),
    (b"Transfer-Encoding", b"chunked"),
    (b"User-Agent", b"AsyncAnthropic/Python 2.12.0"),
    (b"X-Byok-Feature", b"search"),
    (b"X-Forwarded-For", b"10.0.0.1"),
    (b"X-Stainless-Retry-Count", b"0"),
    (b"X-Stainless-Timeout", b"NOT_GIVEN"),
]


def sent(
    *headers: tuple[bytes, bytes],
    auth_style: AuthStyle = AuthStyle.X_API_KEY,
    workspace_id: str | None = None,
) -> list[tuple[str, str]]:
    return to_provider(headers, key=ApiKey(KEY), auth_style=auth_style, workspace_id=workspace_id)


def shown(
    *headers: tuple[bytes, bytes], status: int = 200, is_stream: bool = False, is_managed: bool = False
) -> dict[bytes, bytes]:
    return dict(to_client(headers, status=status, is_stream=is_stream, is_managed=is_managed))


class TestToProvider:
    def test_only_the_allowed_ones_pass_unchanged(self) -> None:
        assert sent(*FROM_CLIENT) == [
            ("accept", "application/json"),
            ("anthropic-beta", "files-api-2025-04-14,context-1m-2025-08-07"),
            ("anthropic-version", "2026-10-21"),
            ("content-type", "application/json"),
            ("user-agent", "AsyncAnthropic/Python 2.12.0"),
            ("x-stainless-retry-count", "0"),
            ("x-stainless-timeout", "NOT_GIVEN"),
            ("accept-encoding", "identity"),
            ("x-api-key", KEY),
        ]

    @pytest.mark.parametrize(
        ("auth_style", "expected"),
        [(AuthStyle.X_API_KEY, ("x-api-key", KEY)), (AuthStyle.BEARER, ("authorization", f"Bearer {KEY}"))],
    )
    def test_carry_one_credential_in_the_style_of_the_version(
        self, auth_style: AuthStyle, expected: tuple[str, str]
    ) -> None:
        headers = sent(*FROM_CLIENT, auth_style=auth_style)

        assert [pair for pair in headers if pair[0] in {"x-api-key", "authorization"}] == [expected]
        assert not any(TOKEN in value for _, value in headers)

    def test_workspace_is_that_of_the_version(self) -> None:
        names = [value for name, value in sent(*FROM_CLIENT, workspace_id="wrkspc_1") if "workspace" in name]

        assert names == ["wrkspc_1"]

    def test_version_is_added_only_if_it_is_missing(self) -> None:
        assert ("anthropic-version", "2023-06-01") in sent()

    def test_repeated_beta_headers_stay_apart(self) -> None:
        betas = sent((b"anthropic-beta", b"a"), (b"Anthropic-Beta", b"b"))

        assert [value for name, value in betas if name == "anthropic-beta"] == ["a", "b"]

    def test_value_that_is_not_utf8_is_dropped(self) -> None:
        assert "user-agent" not in dict(sent((b"user-agent", b"caf\xe9")))

    def test_unicode_passes(self) -> None:
        assert dict(sent((b"user-agent", "café".encode())))["user-agent"] == "café"


FROM_PROVIDER = [
    (b"Date", b"Mon, 23 Nov 2026 12:00:00 GMT"),
    (b"Server", b"cloudflare"),
    (b"Set-Cookie", b"__cf_bm=1"),
    (b"Location", b"https://elsewhere.example.com"),
    (b"Content-Type", b"application/json"),
    (b"Content-Length", b"12"),
    (b"Request-Id", b"req_1"),
    (b"Retry-After", b"7"),
    (b"Retry-After-Ms", b"7000"),
    (b"X-Should-Retry", b"true"),
    (b"Anthropic-Organization-Id", b"org-of-the-key"),
    (b"Anthropic-Workspace-Id", b"wrkspc_1"),
    (b"Anthropic-Ratelimit-Requests-Remaining", b"0"),
    (b"Anthropic-Priority-Input-Tokens-Limit", b"1"),
    (b"Access-Control-Allow-Origin", b"*"),
    (b"CF-Ray", b"8a0b1c2d3e4f5a6b-FRA"),
    (b"Transfer-Encoding", b"chunked"),
    (b"Content-Security-Policy", b"default-src"),
]


class TestToClient:
    def test_only_the_allowed_ones_pass_unchanged(self) -> None:
        assert shown(*FROM_PROVIDER) == {
            b"content-type": b"application/json",
            b"content-length": b"12",
            b"request-id": b"req_1",
            b"retry-after": b"7",
            b"retry-after-ms": b"7000",
            b"x-should-retry": b"true",
            b"anthropic-organization-id": b"org-of-the-key",
            b"anthropic-workspace-id": b"wrkspc_1",
            b"anthropic-ratelimit-requests-remaining": b"0",
            b"anthropic-priority-input-tokens-limit": b"1",
            b"cache-control": b"no-store",
        }

    def test_do_not_name_the_operator_in_managed_mode(self) -> None:
        names = shown(*FROM_PROVIDER, is_managed=True)

        assert not {b"anthropic-organization-id", b"anthropic-workspace-id"} & names.keys()
        assert b"anthropic-ratelimit-requests-remaining" in names

    def test_stream_has_no_length_and_is_not_buffered(self) -> None:
        headers = shown(*FROM_PROVIDER, is_stream=True)

        assert b"content-length" not in headers
        assert (headers[b"cache-control"], headers[b"x-accel-buffering"]) == (b"no-cache", b"no")

    @pytest.mark.parametrize(("status", "source"), [(200, None), (400, b"provider"), (529, b"provider")])
    def test_error_names_its_source(self, status: int, source: bytes | None) -> None:
        assert shown(status=status).get(b"byok-error-source") == source


class TestReading:
    @pytest.mark.parametrize(
        ("value", "expected"),
        [
            (b"text/event-stream", True),
            (b"Text/Event-Stream; charset=utf-8", True),
            (b"text/event-stream ;charset=utf-8", True),
            (b"application/json", False),
            (b"text/event-stream-x", False),
        ],
    )
    def test_recognizes_a_stream(self, value: bytes, expected: bool) -> None:
        assert is_event_stream([(b"Content-Type", value)]) is expected

    @pytest.mark.parametrize(
        ("value", "expected"), [(b"gzip", True), (b"br", True), (b"identity", False), (b" Identity ", False)]
    )
    def test_recognizes_an_encoded_body(self, value: bytes, expected: bool) -> None:
        assert is_encoded([(b"Content-Encoding", value)]) is expected

    @pytest.mark.parametrize(
        ("value", "expected"),
        [(b"req_011CSH", "req_011CSH"), (b"", None), (b"r" * 129, None), (b"caf\xe9", None), (b"a\tb", None)],
    )
    def test_request_id_is_short_and_printable(self, value: bytes, expected: str | None) -> None:
        assert request_id_of([(b"Request-Id", value)]) == expected

    def test_request_id_may_be_missing(self) -> None:
        assert request_id_of([]) is None
