"""The header that carries a key to a provider."""

from typing import Final

from app.core.keys.api_key import ApiKey
from app.provider_url.endpoint import AuthStyle

_CREDENTIAL_HEADERS: Final = {
    AuthStyle.X_API_KEY: ("x-api-key", ""),
    AuthStyle.BEARER: ("authorization", "Bearer "),
}


def credential_header(key: ApiKey, auth_style: AuthStyle) -> tuple[str, str]:
    """Name and value of the only header that carries the key."""
    name, scheme = _CREDENTIAL_HEADERS[auth_style]
    return name, scheme + key.reveal()
