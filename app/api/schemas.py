"""Base classes and field types of all request and response models."""

import re
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache
from typing import Annotated, Any, Generic, ParamSpec, TypeVar

import msgspec
from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    model_validator,
)
from pydantic_core import PydanticCustomError

# pydantic writes UTC as `Z`. A serializer in Python would make lists 10 percent slower.
Timestamp = Annotated[
    datetime, Field(description="RFC 3339 in UTC.", examples=["2026-11-23T14:05:06.123456Z"])
]
_RFC_3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)?", re.ASCII)


def _require_rfc3339(value: object) -> object:
    """Reject numbers, which pydantic would interpret as seconds or milliseconds since 1970."""
    if (
        value is None
        or isinstance(value, datetime)
        or (isinstance(value, str) and _RFC_3339.fullmatch(value))
    ):
        return value
    raise PydanticCustomError("datetime_parsing", "Must be an RFC 3339 timestamp.")


def _in_utc(value: datetime) -> datetime:
    """Convert to UTC, as responses show it."""
    with suppress(OverflowError):  # the first and last years, which later checks reject
        return value.astimezone(UTC)
    return value


# A timestamp in a request.
InputTimestamp = Annotated[AwareDatetime, BeforeValidator(_require_rfc3339), AfterValidator(_in_utc)]
OrganizationId = Annotated[str, Field(examples=["org_acme"])]
Subject = Annotated[
    str, Field(description="The `sub` claim of the client's token.", examples=["ada@acme.example"])
]
KeyVersion = Annotated[
    int,
    Field(
        description="The number of the key: 1 for a credential's first key. Numbers are never reused.",
        examples=[1],
    ),
]

Item = TypeVar("Item")
Model = TypeVar("Model")
Fields = ParamSpec("Fields")


def without_default(schema: dict[str, Any]) -> None:
    """Remove the default from a field's JSON schema: None means that the field is absent, and clients must not send it."""
    schema.pop("default", None)


class RequestModel(BaseModel):
    """Base class of request bodies. Unknown fields are errors, and errors never show the input.

    Lists must have `max_length` and `fail_fast`, so that the number of errors of a body is bounded.
    """

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True, strict=False)

    @model_validator(mode="before")
    @classmethod
    def _reject_unknown_fields(cls, value: Any) -> Any:
        """Raise one error for all unknown fields, before any value is judged: pydantic would collect one for each."""
        if isinstance(value, dict) and any(name not in cls.model_fields for name in value):
            raise PydanticCustomError("extra_forbidden", "Unknown field.")
        return value


@cache
def _exclusions(model: type[BaseModel]) -> dict[str, Callable[[Any], bool]]:
    """Return when each field that may be absent is."""
    fields = model.model_fields.items()
    return {name: it.exclude_if for name, it in fields if it.exclude_if is not None}


def _fields(value: object) -> dict[str, Any]:
    if not isinstance(value, BaseModel):
        raise TypeError
    exclusions = _exclusions(type(value))
    if not exclusions:
        return value.__dict__
    return {
        name: it for name, it in value.__dict__.items() if name not in exclusions or not exclusions[name](it)
    }


_encoder = msgspec.json.Encoder(enc_hook=_fields)


class ResponseModel(BaseModel):
    """Base class of response bodies."""

    # Built at the first use. Request models are built at import, because FastAPI silences a warning of pydantic only then.
    model_config = ConfigDict(
        frozen=True, extra="forbid", json_schema_serialization_defaults_required=True, defer_build=True
    )

    def to_json(self) -> bytes:
        """Serialize the model to JSON in a fifth of pydantic's time.

        The bytes are pydantic's, except for floats of 1e16 or more: `1e16` in place of `1e+16`, which is the same number.
        """
        return _encoder.encode(self)

    def split_json(self, field: str) -> tuple[bytes, bytes]:
        """Serialize the model before and after the items of a list, which must be empty: they are serialized separately.

        Serializing ten thousand items in one call would use the event loop without a pause.
        """
        return split_list(self.to_json(), field)


def split_list(document: bytes, field: str) -> tuple[bytes, bytes]:
    """Split the JSON of a model before and after the items of its first empty list with this name."""
    # Within a string, the quotes would be escaped.
    before, empty, after = document.partition(f'"{field}":[]'.encode())
    return before + empty[:-1], empty[-1:] + after


def unvalidated(model: Callable[Fields, Model]) -> Callable[Fields, Model]:
    """Return a constructor of a response model that does not validate, for models that lists have many of.

    It takes all fields by name, in their order, also those with a default. Their types are checked statically, and
    tests/architecture/test_unvalidated_models.py lists the models.
    """
    kind: Any = model
    set_attribute, new, names = object.__setattr__, object.__new__, set(kind.model_fields)

    def construct(*_: Fields.args, **fields: Fields.kwargs) -> Model:
        made: Model = new(kind)
        # What pydantic's own constructors set.
        set_attribute(made, "__dict__", fields)
        set_attribute(made, "__pydantic_fields_set__", names)
        set_attribute(made, "__pydantic_extra__", None)
        set_attribute(made, "__pydantic_private__", None)
        return made

    return construct


class Page(ResponseModel, Generic[Item]):
    """One page of a list. To get the next page, pass `next_page` as the parameter `page`."""

    data: list[Item]
    has_more: bool
    next_page: Annotated[str | None, Field(description="An opaque cursor. Null on the last page.")]

    @classmethod
    def model_parametrized_name(cls, params: tuple[Any, ...]) -> str:
        """The name in the OpenAPI document, from which clients are generated: `CredentialPage`, not `Page[Credential]`."""
        return f"{params[0].__name__}Page"
