"""Provider endpoints: where a key may be sent, and in which header."""

from enum import StrEnum

from msgspec import Struct


class AuthStyle(StrEnum):
    """The header that carries the key: `x-api-key`, or `Authorization: Bearer`. Only the chosen one is ever used."""

    X_API_KEY = "x_api_key"
    BEARER = "bearer"


class ProviderEndpoint(Struct, frozen=True, kw_only=True):
    """Where a key version may be sent. Bound to the version: only a rotation changes it."""

    base_url: str | None
    messages_url: str
    auth_style: AuthStyle
    workspace_id: str | None
    probe_model: str | None
