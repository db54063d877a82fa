"""Tests of the URL policy by example: every rule, and the order of precedence."""
# ruff: noqa: RUF001  # the tests need characters that look like others

import pytest

from app.core.url_errors import MESSAGES, UrlReason, UrlRefused
from app.provider_url.url_policy import MAX_URL_LENGTH, parse_outbound_url, validate_url

GATEWAY = "https://gw.example.com"

MALFORMED = [
    "gw.example.com",
    "//gw.example.com",
    "/v1/messages",
    "https",
    "https:",
    "https://",
    "https:///v1",
    "https:////gw.example.com",
    "https:/gw.example.com",
    "https:gw.example.com",
    "https://?",
    "https://#",
    "https://:443",
    "https://::1/v1",
    "：https://gw.example.com",
    "https:\\\\gw.example.com",
    "https://gw.example.com\\@evil.example.com",
    "https://gw.exa\tmple.com",
    "https://gw.example.com\n",
    " https://gw.example.com",
    "https://gw.example.com/a b",
    "\0https://gw.example.com",
    "https://gw.example.com/<script>",
    "https://gw.example.com/{account}",
    'https://gw.example.com/"',
    "https://gw.example.com/a|b",
    "https://gw.example.com/a^b",
    "https://gw.example.com/`",
    "https://gw.example.com/\x7f",
    "https://gw.example.com/\x85",
    "https://gw\u200b.example.com",  # zero width space
    "https://gw\u00ad.example.com",  # soft hyphen
    "https://gw\u202e.example.com",  # right-to-left override
    "https://gw.example.com/\u00a0",  # no-break space
    "https://gw.example.com/\u2028",  # line separator
    "https://gw.example.com/\ufeff",  # byte order mark
    "https://gw.example.com/\ue000",  # private use
    "https://gw.example.com/\ud800",  # lone surrogate
    "https://gw.example.com/\U000e0041",  # tag character
    f"https://gw.example.com/{'a' * MAX_URL_LENGTH}",
]

REJECTED = {
    UrlReason.MALFORMED: MALFORMED,
    UrlReason.SCHEME_NOT_HTTPS: [
        "http://gw.example.com",
        "HTTP://gw.example.com:443",
        "ftp://gw.example.com",
        "file:///etc/passwd",
        "javascript:alert(1)",
        "xhttps://gw.example.com",
        "httpss://gw.example.com",
        "gw.example.com:443/v1",
    ],
    UrlReason.USERINFO_PRESENT: [
        "https://user@gw.example.com",
        "https://user:password@gw.example.com",
        "https://@gw.example.com",
        "https://api.anthropic.com:443@gw.example.com",
        "https://a@b@gw.example.com",
        "https://[::1]@gw.example.com",
    ],
    UrlReason.PORT_NOT_ALLOWED: [
        f"{GATEWAY}:{port}"
        for port in ("", "0", "80", "0443", "444", "4430", "8443", "65979", "443x", "+443", "-443", "4_43", "４４３", "443:443")
    ],
    UrlReason.QUERY_PRESENT: [f"{GATEWAY}?", f"{GATEWAY}/?", f"{GATEWAY}/v1?a=b", f"{GATEWAY}?@evil.example.com/"],
    UrlReason.FRAGMENT_PRESENT: [f"{GATEWAY}#", f"{GATEWAY}/#", f"{GATEWAY}/v1#a", f"{GATEWAY}#@evil.example.com/"],
    UrlReason.HOST_IS_IP: [
        f"https://{host}"
        for host in (
            "127.0.0.1", "8.8.8.8", "127.0.0.1.", "127.1", "2130706433", "0x7f000001", "0X7F.1", "0177.0.0.1",
            "256.256.256.256", "1.2.3.4.5", "foo.0x7f", "foo.0x", "foo.09", "１２７.0.0.1", "①②⑦.0.0.1", "127。0。0。1",
            "[::1]", "[::]:443", "[2606:4700::1]", "[::ffff:127.0.0.1]", "[fe80::1%25eth0]", "..1", "foo_bar.1",
        )
    ],
    UrlReason.HOST_IS_LOCALHOST: [
        f"https://{host}"
        for host in (
            "localhost", "LOCALHOST", "localhost.", "foo.localhost", "foo_bar.localhost", "ⓛocalhost", "ｌocalhost",
            "localhost.localdomain", "localhost6.localdomain6", "ip6-localhost", "loopback", "broadcasthost",
        )
    ],
    UrlReason.HOST_INVALID: [
        f"https://{host}"
        for host in (
            ".", "..", "gw..example.com", ".gw.example.com", "gw.example.com..", "-gw.example.com", "gw-.example.com",
            "my_gw.example.com", "*.example.com", "gw,example.com", "gw!.example.com", "gw%2eexample.com", "%6cocalhost",
            "xn--a.example.com", "xn--.example.com", "xn---bbk.example.com", "xn--localhost-.com", "ab--ü.example.com",
            "☃.example.com", "a＠b.example.com", "gw％2e.example.com", "gw／x.example.com", "℀.example.com",
            "\u0301a.example.com", "אa.example.com", "0x7f.א.example.com",
            f"{'a' * 64}.example.com", f"{'ü' * 60}.example.com", f"{'a.' * 125}example.com",
            f"xn--{('ü' * 60).encode('punycode').decode()}.example.com",
            "[::1", "[127.0.0.1]", "[::g]", "[]", "[::1]x", "[::1].example.com", "[v1.x]", "gw[1].example.com", "gw]",
        )
    ],
    UrlReason.HOST_IS_RESERVED_NAME: [
        f"https://{host}"
        for host in (
            "gateway", "metadata", "com", "metadata.google.internal", "METADATA.google.internal.", "printer.local",
            "gw.svc.cluster.local", "x.onion", "x.test", "x.invalid", "x.example", "x.alt", "router.home.arpa", "x.arpa",
            "x.localdomain", "nas.lan", "nas.home", "wiki.corp", "x.intranet", "x.private", "kubernetes.default.svc",
            "ｘ.ｌｏｃａｌ",
        )
    ],
    UrlReason.PATH_NOT_ALLOWED: [
        GATEWAY + path
        for path in (
            "/.", "/..", "/a/../b", "/./v1", "/v1/..", "/%2e%2e/a", "/a%2Eb", "/a%2fb", "/a%5Cb", "/a%00b", "/%0d%0a", "/%7f",
            "/%C2%85", "/%", "/%4", "/%zz", "/a%", "/%c0%ae%c0%ae", "/%ff", "/%ed%a0%80",
        )
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    ("text", "expected"), [(text, expected) for expected, texts in REJECTED.items() for text in texts]
)
def test_rejects_a_url_with_the_right_reason(text: str, expected: UrlReason) -> None:
    assert validate_url(text) is expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("http://user@localhost:80/..?#\n", UrlReason.MALFORMED),
        ("http://user@localhost:80/..?#", UrlReason.SCHEME_NOT_HTTPS),
        ("https://user@localhost:80/..?#", UrlReason.USERINFO_PRESENT),
        ("https://localhost:80/..?#", UrlReason.PORT_NOT_ALLOWED),
        ("https://localhost/..?#", UrlReason.QUERY_PRESENT),
        ("https://localhost/..#?", UrlReason.FRAGMENT_PRESENT),
        ("https://a_b.0/..", UrlReason.HOST_IS_IP),
        ("https://a_b.localhost/..", UrlReason.HOST_IS_LOCALHOST),
        ("https://a_b.internal/..", UrlReason.HOST_INVALID),
        ("https://a.internal/..", UrlReason.HOST_IS_RESERVED_NAME),
        ("https://gw.example.com/..", UrlReason.PATH_NOT_ALLOWED),
    ],
)
def test_reports_the_reason_with_the_highest_precedence(text: str, expected: UrlReason) -> None:
    assert validate_url(text) is expected


class TestUrlRefused:
    def test_contains_field_code_and_fix_but_never_the_input(self) -> None:
        with pytest.raises(UrlRefused) as caught:
            parse_outbound_url("https://sk-ant-api03-secret@gw.example.com", field="url")

        (error,) = caught.value.errors
        assert (error.field, error.code, caught.value.problem_code) == (
            "url",
            "userinfo_present",
            "userinfo_present",
        )
        assert error.message == MESSAGES[UrlReason.USERINFO_PRESENT]
        assert "secret" not in repr(caught.value)

    def test_every_reason_has_a_message(self) -> None:
        assert set(MESSAGES) == set(UrlReason)
        assert all(message.endswith(".") for message in MESSAGES.values())


class TestOutboundUrl:
    def test_keeps_the_path_unchanged(self) -> None:
        url = parse_outbound_url("https://hooks.example.com:443//in/", field="url")

        assert str(url) == "https://hooks.example.com//in/"
