"""Which headers pass the relay, in both directions. These are allow lists: all other headers are dropped."""

from collections.abc import Iterable
from typing import Final, TypeAlias

from app.core.keys.api_key import ApiKey
from app.egress.credential_header import credential_header
from app.provider_url.endpoint import AuthStyle

RawHeaders: TypeAlias = Iterable[tuple[bytes, bytes]]

DEFAULT_ANTHROPIC_VERSION: Final = "2023-06-01"

_TO_PROVIDER: Final = frozenset({b"accept", b"content-type", b"user-agent"})
_PREFIXES_TO_PROVIDER: Final = (b"x-stainless-", b"anthropic-")
# The workspace belongs to the key. The rest names who pays or who asks, which is not the client's to say.
_NOT_TO_PROVIDER: Final = frozenset(
    {
        b"anthropic-workspace-id",
        b"anthropic-user-profile-id",
        b"anthropic-organization-id",
        b"anthropic-dangerous-direct-browser-access",
    }
)
_TO_CLIENT: Final = frozenset(
    {b"content-type", b"request-id", b"retry-after", b"retry-after-ms", b"x-should-retry"}
)
_PREFIX_TO_CLIENT: Final = b"anthropic-"
# In managed mode these would show the operator's organization and workspace.
_OPERATORS: Final = frozenset({b"anthropic-organization-id", b"anthropic-workspace-id"})


def to_provider(
    headers: RawHeaders, *, key: ApiKey, auth_style: AuthStyle, workspace_id: str | None
) -> list[tuple[str, str]]:
    """The headers of the request to the provider; the client sets `host` and `content-length`.

    A header with bytes that are not UTF-8 is dropped: no SDK sends one.
    """
    forwarded = [
        (name.decode(), text)
        for name, value in _lowered(headers)
        if _passes_to_provider(name) and (text := _text(value)) is not None
    ]
    if not any(name == "anthropic-version" for name, _ in forwarded):
        forwarded.append(("anthropic-version", DEFAULT_ANTHROPIC_VERSION))
    forwarded.append(("accept-encoding", "identity"))
    if workspace_id is not None:
        forwarded.append(("anthropic-workspace-id", workspace_id))
    forwarded.append(credential_header(key, auth_style))
    return forwarded


def to_client(
    headers: RawHeaders, *, status: int, is_stream: bool, is_managed: bool
) -> list[tuple[bytes, bytes]]:
    """The provider's headers that pass to the client, and those that depend on them.

    The headers of every response (`x-request-id`, security headers) are not here.

    Args:
        headers: the provider's.
        status: the provider's.
        is_stream: the body is a stream of events, whose end the relay may extend. So it has no length.
        is_managed: the operator pays.
    """
    passing = [
        (name, value)
        for name, value in _lowered(headers)
        if _passes_to_client(name, is_stream=is_stream, is_managed=is_managed)
    ]
    if is_stream:
        passing += [(b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no")]
    else:
        passing.append((b"cache-control", b"no-store"))
    if status >= 400:  # noqa: PLR2004  # the first status of an error
        passing.append((b"byok-error-source", b"provider"))
    return passing


def is_event_stream(headers: RawHeaders) -> bool:
    """Whether the response is server-sent events."""
    return any(
        value.partition(b";")[0].strip().lower() == b"text/event-stream"
        for name, value in _lowered(headers)
        if name == b"content-type"
    )


def is_encoded(headers: RawHeaders) -> bool:
    """Whether the response is compressed although `identity` was asked for. Its usage cannot be read."""
    return any(
        value.strip().lower() not in {b"", b"identity"}
        for name, value in _lowered(headers)
        if name == b"content-encoding"
    )


def request_id_of(headers: RawHeaders) -> str | None:
    """The provider's `request-id`, if it is short printable ASCII."""
    for name, value in _lowered(headers):
        if name == b"request-id":
            text = value.decode("ascii", "replace").strip()
            return text if 0 < len(text) <= 128 and text.isascii() and text.isprintable() else None  # noqa: PLR2004
    return None


def _passes_to_provider(name: bytes) -> bool:
    return name in _TO_PROVIDER or (name.startswith(_PREFIXES_TO_PROVIDER) and name not in _NOT_TO_PROVIDER)


def _passes_to_client(name: bytes, *, is_stream: bool, is_managed: bool) -> bool:
    if name == b"content-length":
        return not is_stream
    if is_managed and name in _OPERATORS:
        return False
    return name in _TO_CLIENT or name.startswith(_PREFIX_TO_CLIENT)


def _lowered(headers: RawHeaders) -> Iterable[tuple[bytes, bytes]]:
    return ((name.lower(), value) for name, value in headers)


def _text(value: bytes) -> str | None:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return None
