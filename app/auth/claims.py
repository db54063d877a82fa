"""Where a token has the organization and the scopes. Identity providers differ in the names and forms of these claims."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from app.auth.principal import UNRESTRICTED, RelayRestrictions
from app.core.model_identity import model_identity
from app.core.organizations import ANY_ORGANIZATION

NOTHING_ALLOWED = RelayRestrictions(models=frozenset())
_LONGEST_ENDPOINT_ID = 128


class ClaimInvalid(Exception):
    """A claim is missing or has another form. `reason` is a constant for the log."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimNames:
    """The names of the claims.

    A name is that of a claim, or else a path with dots, such as `resource_access.byok.roles`. Its keys may have dots, too.

    Args:
        organization: has the organization id, or `*`, as text or as a list of one text.
        scopes: each has scopes, separated by spaces or as a list. All that a token has count together.
        accepts_lists: whether values may be lists, too.
        service_scope: a token with this scope and without an organization belongs to an internal service.
    """

    organization: str = "org"
    scopes: tuple[str, ...] = ("scope",)
    accepts_lists: bool = False
    service_scope: str | None = None

    def scopes_of(self, claims: Mapping[str, Any]) -> frozenset[str]:
        """All scopes of a token.

        Raises:
            ClaimInvalid
        """
        found = [value for name in self.scopes if (value := _find(claims, name)) is not None]
        if not found:
            raise ClaimInvalid("claim_missing")
        return frozenset(scope for value in found for scope in self._words(value))

    def organization_of(self, claims: Mapping[str, Any], scopes: frozenset[str]) -> str:
        """The organization of a token, unchecked.

        Raises:
            ClaimInvalid
        """
        value = _find(claims, self.organization)
        if value is None:
            if self.service_scope is not None and self.service_scope in scopes:
                return ANY_ORGANIZATION
            raise ClaimInvalid("claim_missing")
        if self.accepts_lists and isinstance(value, list) and len(value) == 1:
            (value,) = value
        if not isinstance(value, str):
            raise ClaimInvalid("bad_claim")
        return value

    def _words(self, value: object) -> list[str]:
        if isinstance(value, str):
            return value.split(" ")
        if self.accepts_lists and isinstance(value, list) and all(isinstance(word, str) for word in value):
            return value
        raise ClaimInvalid("bad_claim")


def relay_restrictions_of(claims: Mapping[str, Any]) -> RelayRestrictions:
    """The optional claim `relay`: `{"models": [...], "endpoint_id": "..."}`.

    A restriction that is not understood allows no model, so that no token can do more than its issuer meant.
    """
    claim = claims.get("relay")
    if claim is None:
        return UNRESTRICTED
    if not isinstance(claim, Mapping) or not claim.keys() <= {"models", "endpoint_id"}:
        return NOTHING_ALLOWED
    models, endpoint_id = claim.get("models"), claim.get("endpoint_id")
    if models is not None and not _is_list_of_texts(models):
        return NOTHING_ALLOWED
    if endpoint_id is not None and not _is_endpoint_id(endpoint_id):
        return NOTHING_ALLOWED
    allowed = None if models is None else frozenset(model_identity(model) for model in models)
    return RelayRestrictions(models=allowed, endpoint_id=endpoint_id)


def _is_list_of_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _is_endpoint_id(value: object) -> bool:
    return isinstance(value, str) and 1 <= len(value) <= _LONGEST_ENDPOINT_ID and value.isprintable()


def _find(claims: Mapping[str, Any], name: str) -> Any:
    """The claim of this name, or else the value at the path; None if there is neither.

    Keys on the path may have dots themselves, such as the id of a client. The longest one that leads to a value counts.
    """
    if name in claims:
        return claims[name]
    end = name.rfind(".")
    while end > 0:
        inner = claims.get(name[:end])
        if isinstance(inner, Mapping) and (found := _find(inner, name[end + 1 :])) is not None:
            return found
        end = name.rfind(".", 0, end)
    return None
