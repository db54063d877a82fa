"""Who sent a response: the provider, an edge or gateway in front of it, or an unknown peer.

A status proves nothing by itself: an edge that blocks this service's network sends 403 and 429 too. So the decision
table asks first who spoke. The marks are those of public reports and of the vendors' own documentation.
"""

import re
from enum import StrEnum

from app.validation.provider_response import (
    MAX_PROSE_CHARACTERS,
    BodyKind,
    JsonObject,
    ProviderResponse,
    as_object,
)


class Speaker(StrEnum):
    """Who sent the response, as far as it proves itself."""

    PROVIDER = "provider"  # Anthropic's endpoint: envelope and request id; a custom host: an error object with a message
    EDGE = "edge"  # network edge, firewall, gateway, load balancer or proxy in front of the provider
    UNKNOWN = "unknown"


# Only a block, a challenge or a platform's own error has these headers: AWS WAF, Cloudflare, Sucuri, proxies, ngrok,
# Vercel, Railway, Render.
_BLOCK_HEADERS = frozenset(
    {"x-amzn-waf-action", "cf-mitigated", "x-sucuri-block", "proxy-authenticate"}
    | {"ngrok-error-code", "x-vercel-error", "x-railway-fallback", "x-render-routing"}
)  # fmt: skip
# These come also with responses that pass through (Imperva, DataDome, AWS), or with any error that the gateway itself
# sends (Kong). They count only if the body is not the provider's.
_PASSING_HEADERS = frozenset({"x-iinfo", "x-datadome", "x-amzn-errortype", "x-kong-response-latency"})
_PAGE_HEADERS = frozenset({"x-iinfo", "x-datadome"})
# Authentication schemes of web servers, proxies and API gateways. No provider of models uses them for its keys.
_GATEWAY_SCHEMES = frozenset(
    {"basic", "digest", "negotiate", "ntlm", "azureapimanagementkey", "key", "apikey", "oauth2"}
)
# The header `server` of responses that these make themselves, or (APISIX) that no provider of models sends. nginx and
# Envoy are missing, because they are in front of providers too and name themselves in every response.
_GATEWAY_SERVERS = frozenset(
    {"kong", "apisix", "awselb", "cloudfront", "akamaighost", "bigip", "zscaler", "squid", "varnish"}
)
# Maintenance, as a page, a text or JSON, with any status.
_MAINTENANCE = re.compile(
    r"(?:down for|under|scheduled|planned|ongoing) maintenance|maintenance mode|be right back"
    r"|temporarily (?:unavailable|down|offline)"
)
# Pages of challenges and captchas, which have any status.
_PAGE = re.compile(
    r"_Incapsula_Resource|awsWaf|gokuProps|challenge-(?:platform|container|form)|cf-chl|captcha|human verification"
    r"|just a moment\.\.\.|attention required!|security check|pardon our interruption|ddos protection"
    r"|web page blocked|request rejected|access denied|error code 1\d\d\d\b"
    r"|errors\.aliyun\.com|block_message|访问被(?:阻断|拦截)|安全威胁|safeline|web应用防火墙",
    re.IGNORECASE,
)
# Plain text of Cloudflare, Envoy (service meshes), cloud load balancers and proxies; some send it as `message` in JSON.
_TEXT = re.compile(
    r"error code: \d{3,4}\b|RBAC: access denied|Jwt (?:is|verification|header|issuer)|Jwks |Audiences in Jwt"
    r"|upstream (?:connect|request|prematurely)|no healthy upstream|no (?:available )?server(?:s)? (?:is |are )?available"
    r"|Invalid IAP credentials|Access denied by|Blocked by|ext_authz|local_rate_limited|fault filter|Tunnel .{0,80}not found"
    r"|Host not in allowlist|stream timeout|UNAUTHENTICATED: ?Method doesn't allow unregistered callers",
    re.IGNORECASE,
)
# Statuses with which a page in HTML is never the provider's own response.
_STATUSES_OF_PAGES = frozenset({400, 401, 403, 406, 407, 408, 413, 429, 431, 444, 451, 499})
_BLOCKING = frozenset({403, 429})
_REFUSING = frozenset({401, 403, 429})
_ONLY_MESSAGE = frozenset({"message", "request_id", "requestid", "request-id"})
# Members that only gateways have in their errors: AWS, Azure API Management, Apigee and WSO2, IBM, Gravitee.
_GATEWAY_MEMBERS = frozenset({"__type", "statusCode", "StatusCode", "fault", "httpCode", "http_status_code"})
# The type of a problem (RFC 9457) that the gateway Zuplo sends.
_GATEWAY_PROBLEM = "https://httpproblems.com/"
_CODE_OF_WSO2 = re.compile(r"9009\d\d")
_SENTENCES = ("message", "msg", "detail", "error", "title")


def speaker_of(response: ProviderResponse, *, is_anthropic: bool) -> Speaker:
    """Decide by the marks of edges first, then by the provider's own shape."""
    has_error = isinstance(response.error.get("message"), str)
    if _is_edge(response, has_error=response.has_envelope or has_error):
        return Speaker.EDGE
    if is_anthropic:
        has_id = response.request_id is not None or "request_id" in as_object(response.json)
        return Speaker.PROVIDER if response.has_envelope and has_id else Speaker.UNKNOWN
    return Speaker.PROVIDER if has_error else Speaker.UNKNOWN


def speaks_of_maintenance(text: str) -> bool:
    """Whether a text says that the service is out of order for now."""
    lower = text.casefold()
    if "maintenance" not in lower and "temporarily" not in lower and "right back" not in lower:
        return False  # most texts, at a tenth of the cost
    return _MAINTENANCE.search(lower) is not None


def _is_edge(response: ProviderResponse, *, has_error: bool) -> bool:
    headers = response.headers
    if not _BLOCK_HEADERS.isdisjoint(headers):
        return True
    if not has_error and response.status_code in _REFUSING and _has_gateway_header(response):
        return True
    match response.kind:
        case BodyKind.HTML:
            return _is_edge_page(response)
        case BodyKind.TEXT:
            return bool(_TEXT.match(response.text.strip())) or speaks_of_maintenance(response.text)
        case BodyKind.JSON:
            return _is_edge_json(response) or (not has_error and _has_edge_sentence(response.body))
        case _:
            return False


def _has_gateway_header(response: ProviderResponse) -> bool:
    headers = response.headers
    scheme = headers.get("www-authenticate", "").partition(" ")[0].casefold()
    server = headers.get("server", "").partition("/")[0].casefold()
    return (
        scheme in _GATEWAY_SCHEMES or server in _GATEWAY_SERVERS or not _PASSING_HEADERS.isdisjoint(headers)
    )


def _is_edge_page(response: ProviderResponse) -> bool:
    return (
        not _PAGE_HEADERS.isdisjoint(response.headers)
        or response.status_code in _STATUSES_OF_PAGES
        or _PAGE.search(response.text) is not None
        or speaks_of_maintenance(response.text)
    )


def _is_edge_json(response: ProviderResponse) -> bool:
    body = response.body
    return (
        bool(body.get("cloudflare_error"))
        or body.get("name") == "AiGatewayError"
        or not _GATEWAY_MEMBERS.isdisjoint(body)
        or body.get("type") == "forbidden"
        or (as_object(body.get("error")).get("type") == "forbidden" and "type" not in body)
        or (response.status_code in _BLOCKING and _has_only_a_message(body))
    )


def _has_edge_sentence(body: JsonObject) -> bool:
    """Whether JSON that is not a provider's error has a sentence of a gateway, or reports maintenance."""
    if _CODE_OF_WSO2.fullmatch(str(body.get("code"))) or str(body.get("type")).startswith(_GATEWAY_PROBLEM):
        return True
    for name in _SENTENCES:
        sentence = body.get(name)
        if isinstance(sentence, str) and (
            _TEXT.match(sentence) or speaks_of_maintenance(sentence[:MAX_PROSE_CHARACTERS])
        ):
            return True
    return False


def _has_only_a_message(body: JsonObject) -> bool:
    names = {name.casefold() for name in body}
    return "message" in names and names <= _ONLY_MESSAGE
