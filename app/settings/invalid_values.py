"""The sentence for an invalid value, without quoting the one that is not."""

from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any

from pydantic import ValidationError

from app.settings.types import HostMessagePatterns, InvalidSetting, MessagePatternsByName
from app.settings.variables import PREFIX

# By pydantic's type of the error.
_SENTENCES = {
    "bool_parsing": "must be true or false",
    "bool_type": "must be true or false",
    "dict_type": "must be a JSON object",
    "extra_forbidden": f"contains a name that is not known; the names are {', '.join(MessagePatternsByName.__annotations__)},"
    f" and below a host {', '.join(HostMessagePatterns.__annotations__)}",
    "enum": "must be one of {expected}",
    "greater_than_equal": "must be at least {ge}",
    "int_parsing": "must be a whole number",
    "int_parsing_size": "is too large",
    "int_type": "must be a whole number",
    "less_than_equal": "must be at most {le}",
    "list_type": "must be a comma-separated list",
    "literal_error": "must be one of {expected}",
    "model_attributes_type": "must be a JSON object; set the settings of this group one by one",
    "model_type": "must be a JSON object; set the settings of this group one by one",
    "path_type": "must be a path",
    "string_too_short": "must not be empty",
    "too_short": "must not be empty",
    "string_type": "must be text",
    "string_unicode": "must be UTF-8 text",
    "time_delta_parsing": "must be a number and a unit, such as 30s, 15m, 72h or 7d",
    "time_delta_type": "must be a number and a unit, such as 30s, 15m, 72h or 7d",
}


def _variable(location: tuple[int | str, ...]) -> str:
    named = [str(part).upper() for part in location if isinstance(part, str) and part.isidentifier()]
    return PREFIX + "__".join(named[:2])


def lines_of(error: ValidationError) -> Iterator[str]:
    """One line for each setting that is not valid."""
    lines: dict[str, str] = {}
    for item in error.errors(include_url=False, include_input=False):
        lines.setdefault(_variable(item["loc"]), _sentence(item["type"], item.get("ctx", {})))
    return (f"{variable}: {sentence}" for variable, sentence in lines.items())


def _sentence(kind: str, context: Mapping[str, Any]) -> str:
    """What a valid value is. Pydantic's own messages are not printed, because some of them quote the value.

    Of the context, only the limits and choices of the setting are used.
    """
    if isinstance(error := context.get("error"), InvalidSetting):
        return str(error)
    limits = {
        name: _limit(context[name]) for name in ("ge", "le", "min_length", "expected") if name in context
    }
    return _SENTENCES.get(kind, "is not valid").format_map(limits)


def _limit(value: object) -> str:
    if isinstance(value, timedelta):
        return "0s" if not value else _duration_text(value)
    return str(value)


def _duration_text(value: timedelta) -> str:
    seconds = int(value.total_seconds())
    size, unit = next(it for it in ((86400, "d"), (3600, "h"), (60, "m"), (1, "s")) if seconds % it[0] == 0)
    return f"{seconds // size}{unit}"
