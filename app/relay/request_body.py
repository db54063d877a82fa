"""What the relay reads of a request: model, `max_tokens`, `stream` and the size. The body is forwarded byte for byte."""

from dataclasses import dataclass
from typing import Final, TypeVar

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from app.core.event_loop import TimeSlice
from app.relay.errors import INVALID_REQUEST, MALFORMED_JSON, TOO_MANY_VALUES, RelayError

MAX_MODEL_LENGTH: Final = 128
MAX_INPUT_TOKENS: Final = 1_000_000
MAX_OUTPUT_TOKENS: Final = 10_000_000
_BYTES_PER_TOKEN: Final = 3
_TOKENS_PER_IMAGE: Final = 1600
# A message has blocks, and a block that is a tool result has blocks.
_BLOCK_DEPTH: Final = 1
# Each message and block becomes an object. With more braces than any real request has, only the bytes are counted.
_MAX_BRACES: Final = 100_000
# A body is decoded in one step, which must be short however large the body is. So the values of a large one are counted
# first, piece by piece. Text counts as well: to a model, each of these characters is about a token, and none reads as many.
_MAX_VALUES: Final = 2_000_000
_BEFORE_VALUES: Final = (b",", b"[", b"{")
_PIECE: Final = 256 * 1024
_BLANKS: Final = b" \t\r\n"
_OTHER_STARTS: Final = b'["-0123456789'
# No longer text can be valid: a character of a model's name takes 12 bytes if it is escaped as two surrogates.
_LONGEST_MODEL: Final = 12 * MAX_MODEL_LENGTH + 2
_LONGEST_NUMBER: Final = 400
_MODEL_LENGTH: Final = "model: String should have 1 to 128 characters"
_NO_INTEGER: Final = "max_tokens: Input should be a valid integer"
_NOT_AN_OBJECT: Final = "The request body must be a JSON object."
_BOOLEANS: Final = {b"null": False, b"false": False, b"true": True}


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestSummary:
    """What a request asks for.

    Args:
        model: as sent.
        max_tokens: the bound of the output, itself bounded far above what any model can give; 0 for `count_tokens`.
        is_stream: the response is to be a stream of events.
        input_tokens: an estimate, not an upper bound: server tools read more, files and URLs are not counted.
    """

    model: str
    max_tokens: int
    is_stream: bool
    input_tokens: int


async def read_message_request(body: bytes) -> RequestSummary:
    """Read the body of `POST /v1/messages`. Pauses between the steps that a large one takes.

    Raises:
        RelayError: a field that the relay needs is missing or invalid, in Anthropic's words.
    """
    time_slice = TimeSlice()
    fields = await _fields(body, time_slice)
    return RequestSummary(
        model=_model(fields.model),
        max_tokens=_max_tokens(fields.max_tokens),
        is_stream=_stream(fields.stream),
        input_tokens=await _input_tokens(body, fields, time_slice),
    )


async def read_count_request(body: bytes) -> RequestSummary:
    """Read the body of `POST /v1/messages/count_tokens`.

    Raises:
        RelayError
    """
    fields = await _fields(body, TimeSlice())
    return RequestSummary(model=_model(fields.model), max_tokens=0, is_stream=False, input_tokens=0)


class _Fields(Struct):
    """Raw values, so that the type of one field cannot hide another, and nothing large is copied."""

    model: Raw | UnsetType = UNSET
    max_tokens: Raw | UnsetType = UNSET
    stream: Raw | UnsetType = UNSET
    messages: Raw | UnsetType = UNSET


async def _fields(body: bytes, time_slice: TimeSlice) -> _Fields:
    if len(body) > _MAX_VALUES:
        await _require_bounded_values(body, time_slice)
    try:
        return msgspec.json.decode(body, type=_Fields)
    except msgspec.ValidationError:
        raise RelayError(INVALID_REQUEST, message=_NOT_AN_OBJECT) from None
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        raise RelayError(MALFORMED_JSON) from None


async def _require_bounded_values(body: bytes, time_slice: TimeSlice) -> None:
    """Refuse a large body that would take long to decode."""
    first = body[:_PIECE].lstrip(_BLANKS)[:1]
    if first != b"{":
        if first and first in _OTHER_STARTS:
            raise RelayError(INVALID_REQUEST, message=_NOT_AN_OBJECT)
        raise RelayError(MALFORMED_JSON)
    values = 0
    for start in range(0, len(body), _PIECE):
        values += sum(body.count(character, start, start + _PIECE) for character in _BEFORE_VALUES)
        if values > _MAX_VALUES:
            raise RelayError(TOO_MANY_VALUES)
        await time_slice.pause_if_used()


def _model(value: Raw | UnsetType) -> str:
    required = _required(value, "model")
    if len(required) > _LONGEST_MODEL:
        raise _invalid(_MODEL_LENGTH)
    try:
        model = msgspec.json.decode(required, type=str)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise _invalid("model: Input should be a valid string") from None
    if not 0 < len(model) <= MAX_MODEL_LENGTH:
        raise _invalid(_MODEL_LENGTH)
    return model


def _max_tokens(value: Raw | UnsetType) -> int:
    required = _required(value, "max_tokens")
    if len(required) > _LONGEST_NUMBER:
        raise _invalid(_NO_INTEGER)
    try:
        max_tokens = msgspec.json.decode(required, type=int)
    except msgspec.DecodeError:
        raise _invalid(_NO_INTEGER) from None
    if max_tokens < 0:
        raise _invalid("max_tokens: Input should be greater than or equal to 0")
    return min(max_tokens, MAX_OUTPUT_TOKENS)


def _stream(value: Raw | UnsetType) -> bool:
    """A missing `stream` and null are false."""
    if value is UNSET:
        return False
    is_stream = _BOOLEANS.get(bytes(memoryview(value)[:6]))
    if is_stream is None:
        raise _invalid("stream: Input should be a valid boolean")
    return is_stream


def _required(value: Raw | UnsetType, name: str) -> Raw:
    if value is UNSET:
        raise _invalid(name + ": Field required")
    return value


def _invalid(message: str) -> RelayError:
    return RelayError(INVALID_REQUEST, message=message)


class _Source(Struct):
    data: Raw = Raw(b"")


class _Block(Struct):
    """A content block. `content` is that of a tool result."""

    type: Raw = Raw(b"")
    source: Raw = Raw(b"")
    content: Raw = Raw(b"")


class _Message(Struct):
    content: Raw = Raw(b"")


async def _input_tokens(body: bytes, fields: _Fields, time_slice: TimeSlice) -> int:
    """Text by its bytes, an image in base64 as a constant, a document in base64 by its decoded size."""
    await time_slice.pause_if_used()
    tokens = len(body) / _BYTES_PER_TOKEN
    if b"base64" in body and fields.messages is not UNSET and body.count(b"{") <= _MAX_BRACES:
        for message in _decoded(fields.messages, list[_Message]) or ():
            tokens += await _correction(message.content, time_slice)
    return min(MAX_INPUT_TOKENS, int(tokens))


async def _correction(content: Raw, time_slice: TimeSlice, *, depth: int = 0) -> float:
    """What the blocks cost more or less than their text does.

    Every level is decoded again, so the depth is bounded.
    """
    if depth > _BLOCK_DEPTH:
        return 0.0
    await time_slice.pause_if_used()
    correction = 0.0
    for block in _decoded(content, list[_Block]) or ():
        source = _decoded(block.source, _Source)
        encoded = 0 if source is None else len(source.data)
        if bytes(block.type) == b'"image"' and encoded:
            correction += _TOKENS_PER_IMAGE - encoded / _BYTES_PER_TOKEN
        elif encoded:
            correction += (encoded * 3 / 4 - encoded) / _BYTES_PER_TOKEN
        correction += await _correction(block.content, time_slice, depth=depth + 1)
    return correction


_Decoded = TypeVar("_Decoded")


def _decoded(value: Raw, kind: type[_Decoded]) -> _Decoded | None:
    """The value, or None if it is missing or has another shape: the provider judges it, the estimate only counts its bytes."""
    if not value:
        return None
    try:
        return msgspec.json.decode(value, type=kind)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return None
