"""Bodies that cost as much as their size allows, generated from the schemas of the OpenAPI document."""

import json
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from app.api.examples import ExampleMissing, example_of

Schema = Mapping[str, Any]
# Makes a body. To make one of 31 MiB takes longer than to reject it, and callers leave out many of them.
MakeBody = Callable[[], bytes]

_MARK = "@the worst value@"
# Each is repeated until the body has its full size: the beginning, the repeated part, the end.
_WORST: dict[str, tuple[str, str, str]] = {
    "zeros": ("[", "0,", "0]"),
    "empty strings": ("[", '"",', '""]'),
    "nulls": ("[", "null,", "null]"),
    "empty lists": ("[", "[],", "[]]"),
    "empty objects": ("[", "{},", "{}]"),
    "objects with a field": ("[", '{"":0},', "{}]"),
    "long integers": ("[", "9" * 4000 + ",", "0]"),
    "floats": ("[", "1.7976931348623157e308,", "0]"),
    "one long float": ("1.", "9", "e5"),
    "letters": ('"', "x", '"'),
    "digits": ('"', "9", '"'),
    "spaces": ('"', " ", '"'),
    "escapes": ('"', "\\u0041", '"'),
    "control characters": ('"', "\\u0000", '"'),
    "halves of surrogate pairs": ('"', "\\ud800", '"'),
    "surrogate pairs": ('"', "\\ud83d\\ude00", '"'),
    "wide characters": ('"', "\U0001f600", '"'),
    "combining characters": ('"', "\u0301\u200d", '"'),
    "nested lists": ("[", "[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]],", "0]"),
    "pieces of a key": ('"', "sk-ant-", '"'),
    "a URL": ('"https://', "a.", 'com/"'),
}
# For a field that is neither an object nor a list, these are enough.
_FOR_FIELDS = {
    *("objects with a field", "one long float", "digits", "escapes", "halves of surrogate pairs"),
    *("wide characters", "many fields"),
}
# Bodies without an end, which only a whole body can be: many commas, half of them in a text, and then no delimiter. They are
# large enough to show that their cost is not linear, and small enough to show it within seconds.
_ENDLESS_BYTES = 64 * 1024
_ENDLESS: dict[str, tuple[str, str]] = {
    "commas, then letters": ('{"' + "," * 5001 + '":' + "," * 5000, "x"),
    "commas, then blanks": ("[" + "0," * 5000 + '"' + "," * 5001 + '"', " "),
}
_DEEP = {"deep lists": ("[", "]"), "deep objects": ('{"a":', "}")}
_VALUES = (*_WORST, *_DEEP, "many fields")


def worst_bodies(schema: Schema, schemas: Schema, size: int) -> Iterator[tuple[str, MakeBody]]:
    """Yield functions that make bodies of at most `size` bytes, with a name: every value of the schema replaced by the worst ones."""
    example = _example(schema, schemas)
    for place, marked in _marked(example):
        before, after = json.dumps(marked).split(json.dumps(_MARK))
        name = ".".join(map(str, place)) or "the body"
        is_field = not isinstance(_at(example, place), dict | list)
        for worst in _VALUES:
            if is_field and worst not in _FOR_FIELDS:
                continue
            yield f"{name}: {worst}", partial(_with_value, before, worst, after, size)
    for name, (start, unit) in _ENDLESS.items():
        yield f"the body: {name}", partial(_filled, start, unit, min(size, _ENDLESS_BYTES))
    yield from _repeated_items(example, size)
    yield from _unknown_fields(example, size)


def _with_value(before: str, worst: str, after: str, size: int) -> bytes:
    return (before + _value(worst, size - len(before) - len(after) - 1) + after).encode()


def _filled(start: str, unit: str, size: int) -> bytes:
    return (start + unit * (size - len(start))).encode()


def _value(worst: str, size: int) -> str:
    if worst in _WORST:
        start, unit, end = _WORST[worst]
        return start + unit * ((size - len(start) - len(end)) // len(unit.encode())) + end
    if worst in _DEEP:
        opening, closing = _DEEP[worst]
        depth = size // (len(opening) + len(closing)) - 1
        return opening * depth + "0" + closing * depth
    fields = ",".join(f'"a{number}":0' for number in range(size // 11))
    return "{" + fields[: fields.rindex(",", 0, size - 2)] + "}"


def _marked(value: Any, place: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    """Yield each place in the value, with a copy in which the mark is there."""
    yield place, _MARK
    children = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    )
    for key, child in children:
        for inner, marked in _marked(child, (*place, key)):
            copied = dict(value) if isinstance(value, dict) else list(value)
            copied[key] = marked
            yield inner, copied


def _repeated_items(example: Any, size: int) -> Iterator[tuple[str, MakeBody]]:
    """Valid items, and items with one invalid value each, as many as fit."""
    for place, marked in _marked(example):
        item = _at(example, place)
        if not place or place[-1] != 0:
            continue
        before, after = json.dumps(marked).split(json.dumps(_MARK))
        for name, repeated in {"valid items": item, "invalid items": _with_null(item)}.items():
            make = partial(_with_items, before, json.dumps(repeated) + ",", after, size)
            yield f"{'.'.join(map(str, place))}: {name}", make


def _with_items(before: str, item: str, after: str, size: int) -> bytes:
    number = max(1, (size - len(before) - len(after)) // len(item))
    return (before + (item * number)[:-1] + after).encode()


def _unknown_fields(example: Any, size: int) -> Iterator[tuple[str, MakeBody]]:
    """The valid body with as many unknown fields as fit, in each of its objects."""
    for place, marked in _marked(example):
        item = _at(example, place)
        if not isinstance(item, dict):
            continue
        before, after = json.dumps(marked).split(json.dumps(_MARK))
        known = json.dumps(item)[:-1] + "," if item else "{"
        make = partial(_with_unknown_fields, before + known, after, size)
        yield f"{'.'.join(map(str, place))}: unknown fields", make


def _with_unknown_fields(before: str, after: str, size: int) -> bytes:
    number = (size - len(before) - len(after)) // 11
    fields = ",".join(f'"b{number}":0' for number in range(number))
    return (before + fields + "}" + after).encode()


def _at(value: Any, place: tuple[str | int, ...]) -> Any:
    for key in place:
        value = value[key]
    return value


def _with_null(item: Any) -> Any:
    return dict.fromkeys(item) if isinstance(item, dict) else None


def _example(schema: Schema, schemas: Schema) -> Any:
    """An example with every field, also the optional ones."""
    if "$ref" in schema:
        return _example(schemas[schema["$ref"].rpartition("/")[2]], schemas)
    if "examples" not in schema and "properties" in schema:
        return {name: _example(field, schemas) for name, field in schema["properties"].items()}
    if "examples" not in schema and schema.get("type") == "array":
        return [_example(schema["items"], schemas)]
    if "anyOf" in schema and "examples" not in schema:
        return _example(schema["anyOf"][0], schemas)
    try:
        return example_of(schema, schemas)
    except ExampleMissing:
        return "x"
