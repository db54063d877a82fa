"""Wire models of the provider URL check."""

from typing import Annotated

from pydantic import Field, PlainValidator
from pydantic_core import PydanticKnownError

from app.api.schemas import RequestModel, ResponseModel
from app.provider_url.endpoint import AuthStyle
from app.provider_url.service import UrlCheck


def _accept_any_string(value: object) -> str | None:
    """Accept every string, so that unpaired surrogates and overlong texts get a reason and not a schema error."""
    if value is None or isinstance(value, str):
        return value
    raise PydanticKnownError("string_type")


class ProviderUrlCheckRequest(RequestModel):
    """The URL to check."""

    url: Annotated[
        str | None,
        PlainValidator(_accept_any_string, json_schema_input_type=str | None),
        Field(
            description="The base URL as entered. Null or empty: the default endpoint.",
            examples=["https://gateway.example.com/anthropic"],
        ),
    ]


class ProviderUrlCheck(ResponseModel):
    """Whether the URL can be saved. Resolved addresses are not disclosed."""

    accepted: Annotated[bool, Field(examples=[True])]
    canonical_url: Annotated[
        str | None, Field(examples=["https://gateway.example.com/anthropic/v1/messages"])
    ]
    reason: Annotated[
        str, Field(description="`ok`, or the code of the reason for the rejection.", examples=["ok"])
    ]
    message: Annotated[
        str, Field(description="How to fix the URL, for the admin.", examples=["This URL can be used."])
    ]

    auth_style: Annotated[
        AuthStyle | None,
        Field(
            description="The header that carries the key if `auth_style` is not set on saving. Null: the URL is rejected.",
            examples=[AuthStyle.BEARER.value],
        ),
    ]
    is_anthropic: Annotated[
        bool | None,
        Field(
            description="Whether the host is Anthropic's, or the URL is empty, which means the default endpoint. Null: the"
            " URL is rejected.",
            examples=[False],
        ),
    ]

    @classmethod
    def of(cls, check: UrlCheck) -> "ProviderUrlCheck":
        return cls(
            accepted=check.is_accepted,
            canonical_url=check.canonical_url,
            reason=check.reason,
            message=check.message,
            auth_style=check.auth_style,
            is_anthropic=check.is_anthropic,
        )
