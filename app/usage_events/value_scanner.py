"""Finds where a JSON value of any size ends, in short steps, without decoding it. Its syntax is not checked."""

import re
from array import array
from collections.abc import Generator
from itertools import accumulate
from mmap import mmap
from typing import Final, NamedTuple

from app.core.errors import MalformedJson

BLANK: Final = b" \t\r\n"
# A step of this size takes less than 2 ms for the worst contents.
_LARGEST_STEP: Final = 16 * 1024
_SMALLEST_STEP: Final = 256
_LARGEST_BLANK_STEP: Final = 64 * 1024
# msgspec does not decode deeper values either.
_MAX_DEPTH: Final = 1000

_BLANKS = re.compile(rb"[ \t\r\n]*+")
_STRING = rb'"(?:[^"\\]++|\\.)*+"'
# Without escapes. A quote that opens no such string is the last one, so no position is tried without effect.
_PLAIN_STRINGS = re.compile(rb'"[^"]*+"')
_IN_STRING = re.compile(rb'(?:[^"\\]++|\\.)*+', re.DOTALL)
_STRING_OR_BRACKET = re.compile(_STRING + rb"|[\[\]{}]", re.DOTALL)
_UNTIL_DELIMITER = re.compile(rb'[^,"\[\]{}]*+')
# As signed bytes: how a bracket changes the depth.
_CHANGES = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_QUOTE, _OPENING = ord('"'), frozenset(b"[{")

# `mmap` is memory without a file.
BatchBody = bytes | bytearray | mmap


class _State(NamedTuple):
    """Where a scan is: the depth of containers, whether in a string, and whether after its backslash."""

    depth: int
    in_string: bool
    is_escaped: bool


def skip_blank(body: BatchBody, position: int) -> Generator[None, None, int]:
    """Return the position of the next byte that is not blank."""
    while position < len(body) and body[position] in BLANK:
        found = _BLANKS.match(body, position, position + _LARGEST_BLANK_STEP)
        position = position if found is None else found.end()
        if position < len(body) and body[position] in BLANK:
            yield
    return position


def end_of_value(body: BatchBody, start: int) -> Generator[None, None, int]:
    """Return the position after the value that begins here. Yields after each step.

    Raises:
        MalformedJson: the value does not end, or is nested too deeply.
    """
    if start >= len(body):
        raise MalformedJson
    if body[start] == _QUOTE or body[start] in _OPENING:
        return (yield from _end_of_text(body, start))
    position = start
    while position < len(body):
        found = _UNTIL_DELIMITER.match(body, position, position + _LARGEST_STEP)
        end = position if found is None else found.end()
        if end < position + _LARGEST_STEP:
            return end
        position = end
        yield
    raise MalformedJson


def _end_of_text(body: BatchBody, start: int) -> Generator[None, None, int]:
    """Return the position after a string, an object or an array."""
    is_string = body[start] == _QUOTE
    state = _State(0 if is_string else 1, is_string, is_escaped=False)
    position, size = start + 1, _SMALLEST_STEP
    while position < len(body):
        piece = bytes(memoryview(body)[position : position + size])
        after = _after(piece, state)
        if after is None and size > _SMALLEST_STEP:
            size //= 2  # the value ends within this piece: look closer
        elif after is None:
            return position + _end_within(piece, state)
        else:
            state, position, size = after, position + len(piece), min(2 * size, _LARGEST_STEP)
        if state.depth > _MAX_DEPTH:
            raise MalformedJson
        yield
    raise MalformedJson


def _after(piece: bytes, state: _State) -> _State | None:
    """Return the state after a piece, or None if the value ends within it."""
    begin = 0
    if state.in_string:
        begin, is_open, is_escaped = _leave_string(piece, state)
        if is_open:
            return _State(state.depth, in_string=True, is_escaped=is_escaped)
        if state.depth == 0:
            return None
    # Without escapes, of the same length. First those of backslashes: a quote after an escaped backslash ends the string.
    plain = piece[begin:].replace(rb"\\", b"  ").replace(rb"\"", b"  ")
    outside, quote, string = _PLAIN_STRINGS.sub(b"", plain).partition(b'"')
    changes = array("b", outside.translate(_CHANGES, _NO_BRACKETS))
    if state.depth + min(accumulate(changes), default=0) <= 0:
        return None
    depth = state.depth + sum(changes)
    if not quote:
        return _State(depth, in_string=False, is_escaped=False)
    string = piece[len(piece) - len(string) :]
    _, _, is_escaped = _leave_string(string, _State(depth, in_string=True, is_escaped=False))
    return _State(depth, in_string=True, is_escaped=is_escaped)


def _leave_string(piece: bytes, state: _State) -> tuple[int, bool, bool]:
    """Return the position after the string, whether it goes on after the piece, and whether that begins escaped."""
    found = _IN_STRING.match(piece, int(state.is_escaped))
    end = len(piece) if found is None else found.end()
    if end < len(piece) and piece[end] == _QUOTE:
        return end + 1, False, False
    return len(piece), True, end < len(piece)


def _end_within(piece: bytes, state: _State) -> int:
    """Return the position after the value, which ends within this piece."""
    begin = _leave_string(piece, state)[0] if state.in_string else 0
    depth = state.depth
    if depth == 0:
        return begin
    for found in _STRING_OR_BRACKET.finditer(piece, begin):
        token = found[0][0]
        if token != _QUOTE:
            depth += 1 if token in _OPENING else -1
            if depth == 0:
                return found.end()
    raise MalformedJson  # not reached: the value ends here
