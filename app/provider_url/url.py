"""The provider's messages endpoint, in the one spelling that is stored and called."""

from typing import Annotated, Any, Final, Self

from pydantic import BeforeValidator, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, PydanticKnownError, core_schema

from app.core.url_errors import MESSAGES, UrlReason, UrlRefused
from app.provider_url.endpoint import AuthStyle
from app.provider_url.url_policy import MAX_URL_LENGTH, judge_url

_ENDPOINT: Final = "/v1/messages"
_FIELD: Final = "base_url"

# Where keys travel as x-api-key. A leading dot stands for any subdomain.
_X_API_KEY_HOSTS: Final = (
    "api.anthropic.com",
    "api.deepseek.com",
    "gateway.ai.cloudflare.com",
    ".services.ai.azure.com",
)


class ProviderURL(str):
    """An endpoint that passed the URL policy; as a string, its messages URL.

    There is no way to make one that did not pass. Whether the name leads to public addresses is
    asked of DNS, when it is saved and again at every connection: `app.egress`.

    Raises:
        UrlRefused: as pydantic field, a validation error whose type is the reason.
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
        return self.removesuffix(_ENDPOINT)

    @property
    def host(self) -> str:
        return self.split("/", 3)[2]

    @classmethod
    def _from_field(cls, value: object) -> Self:
        if not isinstance(value, str):
            raise PydanticKnownError("string_type")
        try:
            return cls(value)
        except UrlRefused as refusal:
            raise PydanticCustomError(refusal.reason.value, MESSAGES[refusal.reason]) from None

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


# A field left empty means the default endpoint, like one left out.
OptionalProviderURL = Annotated[
    ProviderURL | None, BeforeValidator(lambda value: None if value == "" else value)
]


def default_auth_style(host: str) -> AuthStyle:
    """How a key travels where the admin did not say: by the documents of the known providers."""
    dotted = f".{host}"
    is_known = any(dotted.endswith(known) if known[0] == "." else host == known for known in _X_API_KEY_HOSTS)
    return AuthStyle.X_API_KEY if is_known else AuthStyle.BEARER


def _canonical(text: str) -> str | UrlReason:
    canonical = _normalized(text)
    if isinstance(canonical, UrlReason):
        return canonical
    if len(canonical) > MAX_URL_LENGTH:
        return UrlReason.MALFORMED
    # What we store must read the same when it is read back. Holds by construction; kept true here wherever
    # something may have been translated. Plain ASCII is put together again from the parts that were judged.
    is_translated = not text.isascii() or "%" in canonical or "xn--" in canonical
    if is_translated and _normalized(canonical) != canonical:
        return UrlReason.MALFORMED
    return canonical


def _normalized(text: str) -> str | UrlReason:
    url = judge_url(text)
    if isinstance(url, UrlReason):
        return url
    segments = [segment for segment in url.path.split("/") if segment]
    if segments[-1:] == ["v1"]:
        segments.append("messages")
    elif segments[-2:] != ["v1", "messages"]:
        segments += ["v1", "messages"]
    return f"https://{url.host}/{'/'.join(segments)}"
