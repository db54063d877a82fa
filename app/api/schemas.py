"""What all wire shapes share: unknown fields are refused, times end in Z, answers are made by us alone."""

import re
from contextlib import suppress
from datetime import UTC, datetime
from typing import Annotated, Any, Generic, TypeVar

from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

# pydantic writes UTC as Z by itself; a serializer in Python would cost a tenth of a list.
Instant = Annotated[datetime, Field(description="RFC 3339 in UTC.", examples=["2026-11-23T14:05:06.123456Z"])]
_RFC_3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)?", re.ASCII)


def _spelled_out(value: object) -> object:
    """A number would be read as seconds since 1970, or as thousandths of them."""
    if (
        value is None
        or isinstance(value, datetime)
        or (isinstance(value, str) and _RFC_3339.fullmatch(value))
    ):
        return value
    raise PydanticCustomError("datetime_parsing", "An RFC 3339 instant is needed here.")


def _in_utc(value: datetime) -> datetime:
    """The same instant as we write it: it is shown again in the answer."""
    with suppress(OverflowError):  # at either end of time, where whoever takes it refuses it
        return value.astimezone(UTC)
    return value


# A time that comes in.
GivenInstant = Annotated[AwareDatetime, BeforeValidator(_spelled_out), AfterValidator(_in_utc)]
OrganizationId = Annotated[str, Field(examples=["org_acme"])]
Subject = Annotated[
    str, Field(description="`sub` of the token that was used.", examples=["ada@acme.example"])
]
KeyVersion = Annotated[
    int, Field(description="Counts the keys of a credential. Never used twice.", examples=[1])
]

Item = TypeVar("Item")


def without_default(schema: dict[str, Any]) -> None:
    """Take the default out of a field's schema: it means absence and must not be sent."""
    schema.pop("default", None)


class RequestModel(BaseModel):
    """A body that comes in. Unknown fields are an error, and no error shows what came in."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True, strict=False)


class ResponseModel(BaseModel):
    """A body that goes out."""

    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_serialization_defaults_required=True)

    def to_json(self) -> bytes:
        """The bytes on the wire: straight from the model, without a detour over dictionaries."""
        return self.__pydantic_serializer__.to_json(self)


class Page(ResponseModel, Generic[Item]):
    """One page of a list. Pass `next_page` back as `page` to get the next."""

    data: list[Item]
    has_more: bool
    next_page: Annotated[str | None, Field(description="Opaque. Null on the last page.")]

    @classmethod
    def model_parametrized_name(cls, params: tuple[Any, ...]) -> str:
        """`CredentialPage` rather than `Page[Credential]`: clients are generated from these names."""
        return f"{params[0].__name__}Page"
