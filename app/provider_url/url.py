"""The validated provider URL, in the canonical form that is stored and called."""

from typing import Annotated, Any, Final, Self

from pydantic import BeforeValidator, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, PydanticKnownError, core_schema

from app.core.url_errors import OTHER_ENDPOINT, UrlReason, UrlRefused
from app.provider_url.messages_path import MESSAGES_PATH, messages_path
from app.provider_url.url_policy import MAX_URL_LENGTH, validate_url

_FIELD: Final = "base_url"


class ProviderURL(str):
    """A provider URL that passed the URL policy; the string value is its messages URL.

    Construction validates the URL, so an instance that violates the policy cannot exist. `app.egress`
    checks that the host resolves to allowed addresses, on saving and on every connection.

    Raises:
        UrlRefused: the URL violates the policy. In a pydantic field: a validation error whose type is the reason.
    """

    __slots__ = ()

    def __new__(cls, text: str) -> Self:
        canonical = _canonical(text)
        if isinstance(canonical, UrlReason):
            raise UrlRefused(canonical, field=_FIELD)
        return super().__new__(cls, canonical)

    @property
    def messages_url(self) -> str:
        return str(self)

    @property
    def base_url(self) -> str:
        return self.removesuffix(MESSAGES_PATH)

    @property
    def host(self) -> str:
        return self.split("/", 3)[2]

    @classmethod
    def _from_field(cls, value: object) -> Self:
        if not isinstance(value, str):
            raise PydanticKnownError("string_type")
        try:
            return cls(value)
        except UrlRefused as error:
            raise PydanticCustomError(error.kind, error.message) from None

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: type[Any], _handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            cls._from_field, serialization=core_schema.to_string_ser_schema()
        )

    @classmethod
    def __get_pydantic_json_schema__(
        cls, _schema: CoreSchema, _handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return {
            "type": "string",
            "format": "uri",
            "maxLength": MAX_URL_LENGTH,
            "examples": ["https://gateway.example.com/anthropic"],
        }


# An empty string means the default endpoint, like null.
OptionalProviderURL = Annotated[
    ProviderURL | None, BeforeValidator(lambda value: None if value == "" else value)
]


def _canonical(text: str) -> str | UrlReason:
    canonical = _normalized(text)
    if isinstance(canonical, UrlReason):
        return canonical
    if len(canonical) > MAX_URL_LENGTH:
        return UrlReason.MALFORMED
    # A stored URL must parse to itself. That holds by construction for plain ASCII, which is rebuilt from the
    # validated parts. It is verified here for every URL that IDNA or percent-encoding may have changed.
    is_translated = not text.isascii() or "%" in canonical or "xn--" in canonical
    if is_translated and _normalized(canonical) != canonical:
        return UrlReason.MALFORMED
    return canonical


def _normalized(text: str) -> str | UrlReason:
    url = validate_url(text)
    if isinstance(url, UrlReason):
        return url
    path = messages_path(url.path)
    if path is None:
        raise UrlRefused(UrlReason.PATH_NOT_ALLOWED, kind=OTHER_ENDPOINT, field=_FIELD)
    return f"https://{url.host}{path}"
