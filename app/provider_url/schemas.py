"""Checks of a provider URL on the wire."""

from typing import Annotated

from pydantic import Field, PlainValidator
from pydantic_core import PydanticKnownError

from app.api.schemas import RequestModel, ResponseModel
from app.provider_url.service import UrlCheck


def _any_text(value: object) -> str | None:
    """Any text at all is judged, also one that no text should be: half of a surrogate pair, or far too long."""
    if value is None or isinstance(value, str):
        return value
    raise PydanticKnownError("string_type")


class ProviderUrlCheckRequest(RequestModel):
    """What the admin typed."""

    url: Annotated[
        str | None,
        PlainValidator(_any_text, json_schema_input_type=str | None),
        Field(examples=["https://gateway.example.com/anthropic"]),
    ]


class ProviderUrlCheck(ResponseModel):
    """Whether the URL could be saved. Names no address: DNS is not ours to retell."""

    accepted: Annotated[bool, Field(examples=[True])]
    canonical_url: Annotated[
        str | None, Field(examples=["https://gateway.example.com/anthropic/v1/messages"])
    ]
    reason: Annotated[str, Field(description="`ok`, or why not.", examples=["ok"])]
    message: Annotated[
        str, Field(description="Tells the admin how to mend it.", examples=["This URL can be used."])
    ]

    @classmethod
    def of(cls, check: UrlCheck) -> "ProviderUrlCheck":
        return cls(
            accepted=check.is_accepted,
            canonical_url=check.canonical_url,
            reason=check.reason,
            message=check.message,
        )
