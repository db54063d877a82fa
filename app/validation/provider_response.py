"""A provider's HTTP response as the decision table reads it: parsed once, bounded, never logged or kept."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeAlias

JsonObject: TypeAlias = Mapping[str, object]

# Longer prose carries no meaning for the decision table, so patterns do not search the rest.
MAX_PROSE_CHARACTERS = 2000
# The body's encodings besides UTF-8, UTF-16 and UTF-32, which JSON itself shows. A list, because Python knows
# "encodings" that are slow or expand their input.
_ENCODINGS = frozenset(
    {"iso-8859-1", "latin-1", "latin1", "windows-1252", "us-ascii", "ascii"}
    | {"gbk", "gb2312", "gb18030", "big5", "shift_jis", "shift-jis", "euc-jp", "euc-kr", "windows-1251", "koi8-r"}
)  # fmt: skip
_CHARSET = re.compile(r"charset=\"?([\w-]{1,20})", re.IGNORECASE)
_TAG_OF_HTML = re.compile(
    r"<(?:!doctype\s*html|\?xml[^>]{0,200}>\s*<!doctype html|(?:html|head|body|center|script|title|meta)\b)",
    re.IGNORECASE,
)


class BodyKind(StrEnum):
    """What the body is, whatever its Content-Type says."""

    JSON = "json"
    HTML = "html"
    TEXT = "text"
    EMPTY = "empty"
    BROKEN = "broken"  # cut off, too long, a stream of events, or labelled as JSON and not JSON


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderResponse:
    """Status, headers (names in lower case) and body. The repr omits headers and body: a peer may echo the key there.

    Attributes:
        body: the JSON object, also if it is the only member of a list; empty if the body is not an object.
        error: `error` of the JSON object; empty if the object is inside a list, or if `error` is not an object.
        has_envelope: whether the body is Anthropic's error envelope, `{"type": "error", "error": {"type", "message"}}`.
        text: the beginning of a body that is not JSON.
    """

    status_code: int
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    kind: BodyKind = BodyKind.EMPTY
    json: object = field(default=None, repr=False)
    body: JsonObject = field(default_factory=dict, repr=False)
    error: JsonObject = field(default_factory=dict, repr=False)
    has_envelope: bool = False
    text: str = field(default="", repr=False)

    @classmethod
    def read(cls, status_code: int, headers: Mapping[str, str], content: bytes | None) -> "ProviderResponse":
        """Parse a body. Never raises. Pass None as `content` for a body that is longer than any response to a probe."""
        kind, parsed, text = _parse(content, headers.get("content-type", "").casefold())
        outer = as_object(parsed)
        error = as_object(outer.get("error"))
        is_envelope = outer.get("type") == "error" and isinstance(error.get("type"), str)
        return cls(
            status_code=status_code,
            headers=headers,
            kind=kind,
            json=parsed,
            body=as_object(parsed[0]) if isinstance(parsed, list) and len(parsed) == 1 else outer,
            error=error,
            has_envelope=is_envelope and isinstance(error.get("message"), str),
            text=text,
        )

    @property
    def request_id(self) -> str | None:
        """Anthropic's id of the request: header `request-id`, else `request_id` of the body. Unchecked."""
        found = self.headers.get("request-id") or as_object(self.json).get("request_id")
        return found if isinstance(found, str) else None


def as_object(value: object) -> JsonObject:
    return value if isinstance(value, dict) else {}


def _parse(content: bytes | None, content_type: str) -> tuple[BodyKind, object, str]:
    if content is None:
        return BodyKind.BROKEN, None, ""
    if not content.strip():
        return BodyKind.EMPTY, None, ""
    try:
        return BodyKind.JSON, json.loads(content), ""
    except (ValueError, RecursionError):
        text = _decode(content, content_type)
    if not content.isascii():
        try:
            return BodyKind.JSON, json.loads(text), ""
        except (ValueError, RecursionError):
            pass
    text = text[:MAX_PROSE_CHARACTERS]
    return _kind_of(text, content_type), None, text


def _decode(content: bytes, content_type: str) -> str:
    found = _CHARSET.search(content_type)
    encoding = found[1] if found and found[1] in _ENCODINGS else "utf-8"
    return content.decode(encoding, errors="replace")


def _kind_of(text: str, content_type: str) -> BodyKind:
    if "json" in content_type or "event-stream" in content_type:
        return BodyKind.BROKEN
    if "html" in content_type or _TAG_OF_HTML.match(_without_leading_comments(text)):
        return BodyKind.HTML
    if text.lstrip()[:1] in {"{", "["}:
        return BodyKind.BROKEN
    return BodyKind.TEXT


def _without_leading_comments(text: str) -> str:
    text = text.lstrip("\ufeff \t\r\n")
    while text.startswith("<!--"):
        text = text.partition("-->")[2].lstrip()
    return text
