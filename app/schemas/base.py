"""What all wire shapes share: unknown fields are refused, times end in Z, answers are made by us alone."""

from datetime import datetime
from typing import Annotated, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer

from app.domain.clock import rfc3339

Instant = Annotated[
    datetime,
    PlainSerializer(rfc3339, return_type=str, when_used="json"),
    Field(description="RFC 3339 in UTC.", examples=["2026-11-23T14:05:06.123456Z"]),
]

Item = TypeVar("Item")


class RequestModel(BaseModel):
    """A body that comes in. Unknown fields are an error, and no error shows what came in."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True, strict=False)


class ResponseModel(BaseModel):
    """A body that goes out."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def to_json(self) -> bytes:
        """The bytes on the wire: straight from the model, without a detour over dictionaries."""
        return self.__pydantic_serializer__.to_json(self)


class Page(ResponseModel, Generic[Item]):
    """One page of a list. Pass `next_page` back as `page` to get the next."""

    data: list[Item]
    has_more: bool
    next_page: Annotated[str | None, Field(description="Opaque. Null on the last page.")]
