"""Requests that contain a text in every place, wrong or right."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote, urlencode
from uuid import UUID

_NDJSON = "application/x-ndjson"
UNKNOWN_CREDENTIAL_ID = UUID(int=0x0199_0000_0000_7000_8000_0000_0000_0000)


@dataclass(frozen=True, kw_only=True)
class Sent:
    """One request. `name` describes where the text is, without containing it; `role` is the role of its token."""

    name: str
    method: str
    path: str
    headers: dict[str, bytes] = field(default_factory=dict)
    content: bytes = b""
    role: str = "billing-admin"


def requests_with(
    text: str, *, organization: str, credential_id: str = str(UNKNOWN_CREDENTIAL_ID)
) -> Iterator[Sent]:
    """Requests with the text in every part, to known and unknown routes."""
    credentials = f"/v1/organizations/{organization}/provider-credentials"
    credential = f"{credentials}/{credential_id}"
    yield from _in_bodies("POST", credentials, text, create=True)
    yield from _in_bodies("PATCH", credential, text, create=False)
    yield from _in_price_overrides(f"/v1/organizations/{organization}/price-overrides", text)
    yield from _in_spending(organization, text)
    yield from _in_billing(f"/v1/organizations/{organization}", text)
    yield _sent(
        "a body that the route ignores", "POST", f"{credential}/validations", json.dumps({text: text})
    )
    yield _sent("an ignored body that is not JSON", "POST", f"{credential}/validations", text)
    if text.isascii():
        yield Sent(name="method", method=text, path="/livez")
    yield from _in_usage_events(text, f"/v1/organizations/{organization}/usage-events", credential_id)
    yield from _in_paths(text, organization)
    yield from _in_queries(text, organization, credential)
    yield from _in_headers(text, credentials, credential)


def _in_bodies(method: str, path: str, text: str, *, create: bool) -> Iterator[Sent]:
    whole: dict[str, Any] = {"label": "Canary", "api_key": text} if create else {"label": "Canary"}
    bodies: dict[str, Any] = {
        f"{field} of the body": whole | {field: text}
        for field in ("label", "workspace_id", "probe_model", "base_url", "provider", "auth_style", "other")
    }
    bodies |= {
        "whole": whole,
        "text around it in label": whole | {"label": f"my key {text} is good"},
        "label far too long": whole | {"label": text * 100},
        "only api_key": {"api_key": text},
        "name of a field": whole | {text: 1},
        "name and value of a field": whole | {text: text},
        "name of a nested field": whole | {"label": {text: text}},
        "object for api_key": whole | {"api_key": {"value": text}},
        "list for api_key": whole | {"api_key": [text]},
        "url in base_url": whole | {"base_url": f"https://{quote(text)}@example.com/?key={quote(text)}"},
        "a list": [text],
        "a text": text,
    }
    for name, body in bodies.items():
        yield _sent(name, method, path, json.dumps(body))
        if not text.isascii():
            yield _sent(f"{name}, not escaped", method, path, json.dumps(body, ensure_ascii=False))
    yield from _in_malformed_bodies(method, path, text, whole)


def _in_malformed_bodies(method: str, path: str, text: str, whole: dict[str, Any]) -> Iterator[Sent]:
    malformed = {
        "truncated JSON": json.dumps(whole | {"label": text})[:-2],
        "JSON followed by text": f"{json.dumps(whole)} {text}",
        "not JSON": text,
        "JSON in single quotes": repr(whole | {"label": text}),
    }
    for name, content in malformed.items():
        yield _sent(name, method, path, content)
    broken = b'{"label": "\xff\xfe", "api_key": "%b"}' % text.encode()
    yield Sent(name="not UTF-8", method=method, path=path, headers=_json(), content=broken)
    for media_type, content in (
        ("text/plain", text),
        ("application/x-www-form-urlencoded", urlencode({"api_key": text})),
        ("application/xml", f"<key>{text}</key>"),
        (
            "multipart/form-data; boundary=x",
            f'--x\r\nContent-Disposition: form-data; name="{text}"\r\n\r\n{text}',
        ),
    ):
        yield _sent(media_type, method, path, content, media_type=media_type)
    yield _sent("no media type", method, path, json.dumps(whole), media_type="")


def _in_price_overrides(path: str, text: str) -> Iterator[Sent]:
    prices = {"uncached_input": "1", "output": "2"}
    entry: dict[str, Any] = {"model": "claude-opus-5-5", "usd_per_million_tokens": prices}
    for name, body in {
        "model": {"overrides": [entry | {"model": text}]},
        "beginning of models": {"overrides": [entry | {"model": f"{text[:90]}*"}]},
        "price": {"overrides": [entry | {"usd_per_million_tokens": prices | {"output": text}}]},
        "price of searches": {"overrides": [entry | {"usd_per_thousand_web_searches": text}]},
        "class of tokens": {"overrides": [entry | {"usd_per_million_tokens": prices | {text: "1"}}]},
        "field of an override": {"overrides": [entry | {text: text}]},
        "override": {"overrides": [text]},
        "overrides": {"overrides": text},
        "effective_at": {"overrides": [entry], "effective_at": text},
        "other field": {"overrides": [entry], text: text},
        "nothing": {"overrides": [entry]},
    }.items():
        yield _sent(f"{name} of price overrides", "PUT", path, json.dumps(body))
    yield _sent("price overrides", "GET", path, "")
    yield _sent("query of price overrides", "GET", f"{path}?{urlencode({text: text})}", "")


def _in_spending(organization: str, text: str) -> Iterator[Sent]:
    """Requests with names and URLs that are stored and shown, where a key may be pasted by mistake."""
    path = f"/v1/organizations/{organization}"
    limit: dict[str, Any] = {"name": "Canary", "amount": {"amount": "1", "currency": "USD"}, "period": "day"}
    limits = [limit | {"name": text}, limit | {"name": f"my key {text} is good"}, limit | {text: text}]
    limits += [limit | {"scope": {name: text}} for name in ("model", "endpoint_id", "feature", "usage_mode")]
    limits += [limit | {"amount": {"amount": text, "currency": text}}, limit | {"period": text}]
    for body in limits:
        yield _sent("a spend limit", "POST", f"{path}/spend-limits", json.dumps(body))
    amount = {"amount": {"amount": "1", "currency": "USD"}}
    for name in ("model", "endpoint_id", "feature", "ttl_seconds"):
        body = amount | {name: text}
        yield _sent("a reservation", "POST", f"{path}/spend-reservations", json.dumps(body))
    for url in (text, f"https://hooks.example.com/{text}", f"https://{quote(text)}@hooks.example.com/"):
        yield _sent("a webhook", "POST", f"{path}/webhook-endpoints", json.dumps({"url": url}))


def _in_billing(organization: str, text: str) -> Iterator[Sent]:
    money = {"amount": "1.00", "currency": "USD"}
    terms = {
        "plan": "x",
        "monthly_fee": money,
        "included_endpoints": 1,
        "endpoint_overage_fee": money,
    }
    switch: dict[str, Any] = {"mode": "byo", "credential_id": None, "effective_at": None}
    routes: tuple[tuple[str, str, dict[str, Any]], ...] = (
        ("PUT", "usage-mode", switch),
        ("POST", "usage-mode/preview", switch),
        ("PUT", "subscription", terms),
        ("PUT", "endpoint-counts/2026-10-01", {"endpoints": 1}),
    )
    for method, route, whole in routes:
        for name in (*whole, text):
            yield _sent(f"{route} field", method, f"{organization}/{route}", json.dumps(whole | {name: text}))
            nested = json.dumps(whole | {name: {"amount": text, "currency": text, text: text}})
            yield _sent(f"{route} nested", method, f"{organization}/{route}", nested)
    quoted = quote(text, safe="")
    for method, route in (
        ("PUT", f"endpoint-counts/{quoted}"),
        ("GET", f"endpoint-counts/{quoted}"),
        ("GET", f"endpoint-counts?page={quoted}"),
        ("POST", f"usage-events.csv/links?feature[]={quoted}"),
        ("POST", f"usage-report.csv/links?starting_on=2026-10-01&model[]={quoted}"),
        ("POST", f"billing-statements/2026-10.csv/links?{quoted}"),
        ("GET", f"billing-statements/{quoted}"),
        ("POST", f"billing-statements/{quoted}/close"),
        ("GET", f"billing-statements?page={quoted}"),
        ("GET", f"usage-mode/history?page={quoted}"),
    ):
        content = json.dumps({"endpoints": 1}) if method == "PUT" else ""
        yield _sent(
            f"{route.partition('/')[0].partition('?')[0]} path", method, f"{organization}/{route}", content
        )


_EVENT_FIELDS = (
    *("event_id", "started_at", "completed_at", "model", "endpoint_id", "feature", "session_id"),
    *("prompt_id", "credential_id", "key_version", "outcome", "usage", "usage_source"),
    *("reservation_id", "provider_request_id", "api_key"),
)


def _events_with(text: str, whole: dict[str, Any], credential_id: str) -> dict[str, Any]:
    events: dict[str, Any] = {f"{name} of an event": whole | {name: text} for name in _EVENT_FIELDS}
    for name in ("service_tier", "speed", "inference_geo", "input_tokens", "other"):
        events[f"{name} of the usage"] = whole | {"usage": {name: text}}
    return events | {
        "cut to an event_id": whole | {"event_id": text[:64]},
        "cut to an event_id of a wrong event": {"event_id": text[:64]},
        "name of a field of an event": whole | {text: 1},
        "name of a field of the usage": whole | {"usage": {text: text}},
        "model of an iteration": whole | {"usage": {"iterations": [{"type": "message", "model": text}]}},
        "text around it in feature": whole | {"feature": f"my key {text[:80]} is good"},
        "an event": text,
        "a list as an event": [text],
        "credential beside it": whole | {"credential_id": credential_id, "feature": text},
    }


def _in_usage_events(text: str, path: str, credential_id: str) -> Iterator[Sent]:
    """Events as JSON and as lines, each next to a valid event, so that every request commits one."""
    whole: dict[str, Any] = {
        "event_id": "canary",
        "started_at": datetime.now(UTC).isoformat(),
        "model": "claude-haiku-5-5",
        "outcome": "succeeded",
        "usage": {"input_tokens": 1},
    }
    good = whole | {"event_id": "good"}
    for name, event in _events_with(text, whole, credential_id).items():
        batch = json.dumps({"events": [good, event]})
        lines = f"{json.dumps(good)}\n{json.dumps(event)}\n"
        yield replace(_sent(name, "POST", path, batch), role="service")
        yield replace(_sent(f"{name}, as a line", "POST", path, lines, media_type=_NDJSON), role="service")
    yield replace(
        _sent("a field beside the events", "POST", path, json.dumps({"events": [], text: text})),
        role="service",
    )
    yield replace(_sent("not JSON as events", "POST", path, text), role="service")
    yield replace(_sent("not JSON as a line", "POST", path, f"{text}\n", media_type=_NDJSON), role="service")
    long = f"{json.dumps(good)}\n{text * 1000}"
    yield replace(_sent("a line far too long", "POST", path, long, media_type=_NDJSON), role="service")
    names = (*_EVENT_FIELDS, "usage_mode", "page", "limit", "starting_at", "ending_at", "other", text)
    for name in names:
        yield _sent("a filter of usage events", "GET", f"{path}?{urlencode({name: text})}", "")
    for accept in (b"text/csv", text.encode()):
        yield Sent(name="Accept of usage events", method="GET", path=path, headers={"Accept": accept})


def _in_paths(text: str, organization: str) -> Iterator[Sent]:
    quoted = quote(text, safe="")
    for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"):
        for name, path in (
            ("a path", f"/{quoted}"),
            ("a path under /v1", f"/v1/{quoted}"),
            ("an organization", f"/v1/organizations/{quoted}/provider-credentials"),
            ("a credential", f"/v1/organizations/{organization}/provider-credentials/{quoted}"),
            ("a validation", f"/v1/organizations/{organization}/provider-credentials/{quoted}/validations"),
            ("beyond a known path", f"/metrics/{quoted}"),
        ):
            yield _sent(name, method, path, "{}" if method in {"POST", "PUT", "PATCH"} else "")


_REPORT = (
    *("starting_at", "ending_at", "bucket_width", "time_zone", "group_by[]", "usage_mode[]", "model[]"),
    *("endpoint_id[]", "feature[]", "session_id[]", "prompt_id[]", "credential_id[]", "key_version[]"),
    *("outcome[]", "limit", "page"),
)


def _in_queries(text: str, organization: str, credential: str) -> Iterator[Sent]:
    collection = credential.rpartition("/")[0]
    audit = f"/v1/organizations/{organization}/audit-events"
    for path, names in (
        (collection, ("page", "limit", "state", "other")),
        (audit, ("page", "limit", "credential_id", "action", "actor", "starting_at", "ending_at")),
        (credential, ("other",)),
        (f"/v1/organizations/{organization}/usage-report", _REPORT),
        (f"{credential}/versions", ("page", "limit")),
        (f"{credential}/validations", ("page", "limit")),
        *((route, ("key",)) for route in ("/livez", "/readyz", "/metrics", "/openapi.json", "/docs")),
    ):
        for name in names:
            yield _sent(f"{name} of the query", "GET", f"{path}?{urlencode({name: text})}", "")
        yield _sent("name of a query parameter", "GET", f"{path}?{urlencode({text: text})}", "")


def _in_headers(text: str, credentials: str, credential: str) -> Iterator[Sent]:
    value = text.encode()
    names = (
        *("X-Api-Key", "Idempotency-Key", "If-Match", "Prefer", "X-Request-Id", "traceparent", "tracestate"),
        *(
            "baggage",
            "Cookie",
            "User-Agent",
            "Origin",
            "Referer",
            "Accept",
            "X-Forwarded-For",
            "Content-Type",
        ),
    )
    for method, path in (
        ("GET", credential),
        ("POST", credentials),
        ("PATCH", credential),
        ("GET", "/metrics"),
    ):
        content = b"" if method == "GET" else b'{"label": "Canary"}'
        for name in names:
            headers = _json() | {name: value}
            yield Sent(name=f"header {name}", method=method, path=path, headers=headers, content=content)
        for scheme in (b"Bearer ", b"Basic ", b""):
            headers = {"Authorization": scheme + value}
            yield Sent(name="header Authorization", method=method, path=path, headers=headers)


def raw_requests(text: str) -> Iterator[tuple[str, bytes]]:
    """Malformed requests, which HTTP clients cannot send."""
    value = text.encode()
    end = b"Host: x\r\n\r\n"
    yield "not HTTP", value + b"\r\n\r\n"
    yield "method", value + b" / HTTP/1.1\r\n" + end
    yield "method of a known path", value + b" /livez HTTP/1.1\r\n" + end
    yield "path as it is", b"GET /" + value + b" HTTP/1.1\r\n" + end
    yield "version", b"GET / " + value + b"\r\n" + end
    yield "header name", b"GET /livez HTTP/1.1\r\n" + value + b": 1\r\n" + end
    yield "header without a value", b"GET /livez HTTP/1.1\r\n" + value + b"\r\n" + end
    yield "header value as it is", b"GET /livez HTTP/1.1\r\nX-Api-Key: " + value + b"\r\n" + end
    yield (
        "header with a continuation line",
        b"GET /livez HTTP/1.1\r\nX-Api-Key: a\r\n " + value + b"\r\n" + end,
    )
    yield "Content-Length", b"POST /v1/x HTTP/1.1\r\nContent-Length: " + value + b"\r\n" + end
    yield "Transfer-Encoding", b"POST /v1/x HTTP/1.1\r\nTransfer-Encoding: " + value + b"\r\n" + end
    yield "chunk", b"POST /v1/x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n" + end + value + b"\r\n"
    yield "Host", b"GET /livez HTTP/1.1\r\nHost: " + value + b"\r\n\r\n"
    yield "Upgrade", b"GET /livez HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: " + value + b"\r\n" + end


def _sent(name: str, method: str, path: str, content: str, *, media_type: str = "application/json") -> Sent:
    headers = {"Content-Type": media_type.encode()} if content and media_type else {}
    return Sent(name=f"{method} {name}", method=method, path=path, headers=headers, content=content.encode())


def _json() -> dict[str, bytes]:
    return {"Content-Type": b"application/json"}
