"""Where a key may be sent, and how it travels there."""

from dataclasses import dataclass
from enum import StrEnum


class AuthStyle(StrEnum):
    """How the key travels to the provider. Never both, never tried in turn."""

    X_API_KEY = "x_api_key"
    BEARER = "bearer"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderEndpoint:
    """Where a key version may be sent. Bound to the version: it changes only with the key."""

    base_url: str | None
    messages_url: str
    auth_style: AuthStyle
    workspace_id: str | None
    probe_model: str | None
