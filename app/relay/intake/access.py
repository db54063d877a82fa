"""Who may use the relay: a token in either of the two headers that SDKs use, bound to one organization."""

from collections.abc import Iterable

from app.auth.authenticator import Authenticator
from app.auth.principal import Principal, Scope
from app.core.errors import Unauthenticated
from app.core.model_identity import model_identity
from app.relay.errors import (
    ENDPOINT_NOT_ALLOWED,
    INSUFFICIENT_SCOPE,
    MODEL_NOT_ALLOWED,
    ORGANIZATION_BOUND_TOKEN_REQUIRED,
    RelayError,
)

_BEARER = "bearer "


async def authenticate(authenticator: Authenticator, headers: Iterable[tuple[bytes, bytes]]) -> Principal:
    """Verify the token of a request.

    Raises:
        Unauthenticated: there is no token, or more than one, or it does not verify.
        IdentityProviderUnavailable
    """
    return await authenticator.authenticate(f"Bearer {_token_of(headers)}")


def require_relay(principal: Principal) -> None:
    """Raise RelayError unless the token is for the relay and bound to one organization."""
    if Scope.RELAY_MESSAGES not in principal.scopes:
        raise RelayError(INSUFFICIENT_SCOPE)
    if principal.is_service:
        raise RelayError(ORGANIZATION_BOUND_TOKEN_REQUIRED)


def require_model(principal: Principal, model: str) -> None:
    """Raise RelayError if the token is restricted to other models. Snapshots of a model are the same model."""
    allowed = principal.relay.models
    if allowed is not None and model_identity(model) not in allowed:
        raise RelayError(MODEL_NOT_ALLOWED)


def endpoint_of(principal: Principal, sent: str | None) -> str | None:
    """The endpoint that the usage counts for: the token's, if it has one.

    Raises:
        RelayError: the client names another one.
    """
    fixed = principal.relay.endpoint_id
    if fixed is None:
        return sent
    if sent not in {None, fixed}:
        raise RelayError(ENDPOINT_NOT_ALLOWED)
    return fixed


def _token_of(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """The token. Both headers may have it, if it is the same: a proxy may have checked only one of them."""
    authorizations: list[str] = []
    keys: list[str] = []
    for name, value in headers:
        if name == b"authorization":
            authorizations.append(value.decode("latin-1"))
        elif name == b"x-api-key":
            keys.append(value.decode("latin-1"))
    if len(authorizations) > 1 or len(keys) > 1:
        raise Unauthenticated
    tokens = set(keys)
    for authorization in authorizations:
        if authorization[: len(_BEARER)].lower() != _BEARER:
            raise Unauthenticated
        tokens.add(authorization[len(_BEARER) :])
    if len(tokens) != 1:
        raise Unauthenticated
    return tokens.pop()
