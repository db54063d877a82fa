"""Who is calling, and what the token allows."""

from dataclasses import dataclass
from enum import StrEnum

from app.core.errors import InsufficientScope, NotFound, ServiceOnly
from app.core.organizations import ANY_ORGANIZATION


class Scope(StrEnum):
    """What a token may allow."""

    CREDENTIALS_READ = "credentials:read"
    CREDENTIALS_WRITE = "credentials:write"
    USAGE_READ = "usage:read"
    USAGE_WRITE = "usage:write"
    BILLING_READ = "billing:read"
    BILLING_WRITE = "billing:write"
    LEASES_CREATE = "leases:create"
    RELAY_MESSAGES = "relay:messages"
    AUDIT_READ = "audit:read"


# Count only in tokens of internal services, whatever else a token says.
SERVICE_SCOPES = frozenset({Scope.LEASES_CREATE, Scope.USAGE_WRITE})

_READS = frozenset(scope for scope in Scope if scope.endswith(":read"))
ROLES: dict[str, frozenset[Scope]] = {
    "billing-viewer": _READS,
    "billing-admin": _READS | {Scope.CREDENTIALS_WRITE, Scope.BILLING_WRITE},
    "service": frozenset(Scope) - {Scope.CREDENTIALS_WRITE, Scope.BILLING_WRITE, Scope.RELAY_MESSAGES},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """A verified caller. `organization_id` is `*` for internal services."""

    subject: str
    organization_id: str
    scopes: frozenset[str]

    @property
    def is_service(self) -> bool:
        return self.organization_id == ANY_ORGANIZATION

    def require(self, scope: Scope, *, organization_id: str, service_only: bool = False) -> None:
        """Raise unless this caller may use `scope` on that organization.

        Another organization's path is not found before scopes are looked at, so that a token
        learns nothing of organizations that are not its own.

        Raises:
            NotFound, ServiceOnly, InsufficientScope
        """
        if not self.is_service and self.organization_id != organization_id:
            raise NotFound
        if service_only and not self.is_service:
            raise ServiceOnly
        if scope not in self.scopes or (scope in SERVICE_SCOPES and not self.is_service):
            raise InsufficientScope(scope)


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who asks, for which organization, in which request. What use cases need to know of the way in."""

    subject: str
    organization_id: str
    request_id: str
