"""Reads the variables of settings from the environment and from `.env`, as nested values for the settings' model.

`BYOK_GROUP__NAME` sets one setting of a group. `BYOK_GROUP` may set several as one JSON object.
"""

import io
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_origin

from pydantic import BaseModel

PREFIX = "BYOK_"
DELIMITER = "__"
ENV_FILE = Path(".env")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")


class NotJson(Exception):
    """The variable must be a JSON object, and is not."""

    def __init__(self, variable: str) -> None:
        super().__init__()
        self.variable = variable


class EnvFileUnreadable(Exception):
    """`.env` cannot be read, is not UTF-8, or has a line that is not `NAME=value`. `line` is its number."""

    def __init__(self, line: int | None = None) -> None:
        super().__init__()
        self.line = line


def read_settings(model: type[BaseModel], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The given values of the model's fields. Overrides come before the environment, and that before `.env`.

    Raises:
        NotJson, EnvFileUnreadable
    """
    # Every group is given, so that the model of the settings fills in its defaults.
    found: dict[str, Any] = {name: {} for name in model.model_fields if group_of(model, name) is not None}
    for source in (read_env_file(), os.environ):
        for path, value in _values(model, source):
            _set(found, path, value)
    for name, value in overrides.items():
        _set(found, (name,), value)
    return found


def group_of(model: type[BaseModel], name: str) -> type[BaseModel] | None:
    """The model of a field that is a group of settings."""
    kind = model.model_fields[name].annotation if name in model.model_fields else None
    if get_origin(kind) is None and isinstance(kind, type) and issubclass(kind, BaseModel):
        return kind
    return None


def read_env_file() -> Mapping[str, str | None]:
    """The variables in `.env`. A name without a value has None.

    Raises:
        EnvFileUnreadable
    """
    if not ENV_FILE.is_file():
        return {}
    from dotenv import dotenv_values  # noqa: PLC0415  # only needed with a file
    from dotenv.parser import parse_stream  # noqa: PLC0415  # for the same reason

    try:
        text = ENV_FILE.read_text(encoding="utf-8")
    except (OSError, UnicodeError):
        raise EnvFileUnreadable from None
    # The library would leave such a line out. After a quote that is not closed, it would leave out more. And it takes
    # `NAME:value` for a name, which a warning would show.
    for statement in parse_stream(io.StringIO(text)):
        if statement.error or not _is_assignment(statement.key, statement.value):
            found = statement.original
            empty = found.string[: len(found.string) - len(found.string.lstrip())]
            raise EnvFileUnreadable(found.line + empty.count("\n"))
    return dotenv_values(stream=io.StringIO(text))


def _is_assignment(name: str | None, value: str | None) -> bool:
    """Whether a line is `NAME=value`, empty or a comment. A name without a value is one of another program."""
    if name is None:
        return True
    is_setting = name.upper().startswith(PREFIX)
    return _NAME.fullmatch(name) is not None and not (is_setting and value is None)


def _values(
    model: type[BaseModel], source: Mapping[str, str | None]
) -> Iterator[tuple[tuple[str, ...], Any]]:
    """The path and value of each setting in a source. JSON of a whole group comes before its single settings."""
    for name in sorted(source, key=str.upper):
        value = source[name]
        if value is None or not name.upper().startswith(PREFIX):
            continue
        path = tuple(name[len(PREFIX) :].lower().split(DELIMITER))
        group = group_of(model, path[0])
        if group is None:
            if len(path) == 1:
                yield path, value
        elif len(path) == 1 or (path[1] in group.model_fields and _is_mapping(group, path[1], path)):
            yield path, _object(name.upper(), value)
        else:
            yield path, value


def _is_mapping(group: type[BaseModel], name: str, path: tuple[str, ...]) -> bool:
    """Whether the variable is a whole field of names and values, such as the roles of Vault."""
    field = group.model_fields[name]
    return len(path) == 2 and get_origin(field.annotation) is dict and not field.metadata  # noqa: PLR2004


def _object(variable: str, text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise NotJson(variable)
    return value


def _set(values: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    """Set the value at the path. An object is merged into the values that are there."""
    for name in path[:-1]:
        inner = values.get(name)
        if not isinstance(inner, dict):
            inner = values[name] = {}
        values = inner
    last = path[-1]
    if isinstance(value, dict) and isinstance(values.get(last), dict):
        for name, one in value.items():
            _set(values[last], (str(name),), one)
    else:
        values[last] = value
