"""Codes and messages of invalid fields, in place of those of pydantic, which may quote the input."""

from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

from app.api.schemas import RequestModel
from app.core.errors import FieldError
from app.core.url_errors import MESSAGES as URL_MESSAGES
from app.core.url_errors import OTHER_ENDPOINT, OTHER_ENDPOINT_MESSAGE, UrlReason

# Error types of pydantic → our code and message. All others are `invalid`.
FIELD_ERRORS: dict[str, tuple[str, str]] = {
    "missing": ("required", "This field is required."),
    "extra_forbidden": ("unknown_field", "Unknown field. Remove it."),
    "string_too_short": ("too_short", "The string is too short."),
    "string_too_long": ("too_long", "The string is too long."),
    "string_type": ("invalid_type", "Must be a string."),
    "string_unicode": ("invalid_text", "Must be valid Unicode."),
    "string_pattern_mismatch": ("invalid_format", "The string does not have the required format."),
    "int_type": ("invalid_type", "Must be an integer."),
    "int_parsing": ("invalid_type", "Must be an integer."),
    "greater_than_equal": ("too_small", "The number is too small."),
    "less_than_equal": ("too_large", "The number is too large."),
    "enum": ("invalid_choice", "Must be one of the allowed values."),
    "literal_error": ("invalid_choice", "Must be one of the allowed values."),
    "uuid_parsing": ("invalid_format", "Must be a UUID."),
    "datetime_from_date_parsing": ("invalid_format", "Must be an RFC 3339 timestamp."),
    "datetime_parsing": ("invalid_format", "Must be an RFC 3339 timestamp."),
    "date_parsing": ("invalid_format", "Must be a date, for example `2026-11-30`."),
    "date_from_datetime_parsing": ("invalid_format", "Must be a date, for example `2026-11-30`."),
    "plus_not_encoded": (
        "invalid_format",
        "Must be an RFC 3339 timestamp. In a URL, write the plus sign of its time zone as `%2B`.",
    ),
    "timezone_aware": ("invalid_format", "Must be an RFC 3339 timestamp with a time zone."),
    "model_attributes_type": ("invalid_type", "Must be an object."),
    "model_repeated": (
        "model_repeated",
        "The list contains a model more than once. Keep one entry per model.",
    ),
    "label_has_controls": (
        "label_has_controls",
        "The label contains control or invisible characters. Remove them.",
    ),
    "text_has_controls": (
        "text_has_controls",
        "The text contains control or invisible characters. Remove them.",
    ),
    "text_blank": ("text_blank", "The text is blank. Enter at least one visible character."),
    "looks_like_key": ("looks_like_key", "The field contains a key. Put keys only into `api_key`."),
    "amount_too_large": ("amount_too_large", "The amount is too large."),
    "thresholds_repeated": (
        "thresholds_repeated",
        "The list contains a threshold more than once. Remove one.",
    ),
    "too_long": ("too_long", "The list is too long."),
    "label_blank": ("label_blank", "The label is blank. Enter at least one visible character."),
    **{reason.value: (reason.value, message) for reason, message in URL_MESSAGES.items()},
    OTHER_ENDPOINT: (UrlReason.PATH_NOT_ALLOWED.value, OTHER_ENDPOINT_MESSAGE),
}
INVALID = ("invalid", "The value is not allowed.")


def field_error(error: Mapping[str, Any]) -> FieldError:
    """Turn an error of pydantic into an error of the API."""
    code, message = FIELD_ERRORS.get(error["type"], INVALID)
    location, *path = error["loc"]
    if location == "body":
        # Only declared names: a key that was sent as a field name must not appear in the response.
        declared = [part for part in path if part in _declared_fields()]
        return FieldError(field=".".join(declared) or "body", code=code, message=message)
    return FieldError(field=str(path[0]), code=code, message=message)


@cache
def _declared_fields() -> frozenset[str]:
    return frozenset(name for model in _all_models(RequestModel) for name in model.model_fields)


def _all_models(model: type[RequestModel]) -> Iterable[type[RequestModel]]:
    for child in model.__subclasses__():
        yield child
        yield from _all_models(child)
