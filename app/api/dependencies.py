"""Dependencies and parameters of handlers, as annotated types."""

import json
import re
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Annotated
from uuid import UUID

import structlog
from fastapi import Depends, Header, Path, Request
from pydantic import AfterValidator, BeforeValidator
from pydantic_core import PydanticCustomError
from starlette.exceptions import HTTPException

from app.api.schemas import InputTimestamp
from app.auth.principal import Caller, Principal, Scope
from app.core.errors import InvalidInput
from app.core.organizations import ORGANIZATION_PATTERN
from app.core.revisions import ANY_REVISION
from app.core.services import Services
from app.rate_limits.service import WriteKind, WriteLimiter

_FIRST_YEAR, _LAST_YEAR = 1970, 9998

# The reserved organization that counts requests of internal services to paths without an organization.
SERVICES_ORGANIZATION = "_services"

OrganizationId = Annotated[
    str,
    Path(
        alias="organization_id",
        pattern=ORGANIZATION_PATTERN,
        description="The id of the organization.",
        examples=["org_acme"],
    ),
]
CredentialId = Annotated[
    UUID, Path(description="The id of the credential.", examples=["0199a2b4-c6d8-7e01-a2b3-c4d5e6f70819"])
]
LimitId = Annotated[
    UUID, Path(description="The id of the spend limit.", examples=["0199a2b4-c6d8-7e01-a2b3-c4d5e6f70819"])
]
ReservationId = Annotated[
    UUID, Path(description="The id of the reservation.", examples=["0199a2b4-c6d8-7e01-a2b3-c4d5e6f70819"])
]
EndpointId = Annotated[
    UUID,
    Path(description="The id of the webhook endpoint.", examples=["0199a2b4-c6d8-7e01-a2b3-c4d5e6f70819"]),
]


# All dependencies are coroutines, even if they await nothing: FastAPI runs plain functions in threads.
async def _services(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


AppServices = Annotated[Services, Depends(_services)]


# Every operation with one of these scopes changes something, so it counts towards the organization's limit of writes.
_WRITES = {
    Scope.CREDENTIALS_WRITE: WriteKind.CHANGES,
    Scope.BILLING_WRITE: WriteKind.CHANGES,
    Scope.USAGE_WRITE: WriteKind.WORK,
    Scope.LEASES_CREATE: WriteKind.WORK,
}


def _caller_with(scope: Scope, *, service_only: bool = False) -> Callable[..., Awaitable[Caller]]:
    async def caller(request: Request, organization_id: OrganizationId) -> Caller:
        principal: Principal = request.state.principal
        principal.require(scope, organization_id=organization_id, service_only=service_only)
        if scope in _WRITES:
            services: Services = request.app.state.services
            services[WriteLimiter].admit(organization_id, _WRITES[scope])
        structlog.contextvars.bind_contextvars(organization_id=organization_id, **_credential_in(request))
        return Caller(
            subject=principal.subject, organization_id=organization_id, request_id=request.state.request_id
        )

    return caller


def _credential_in(request: Request) -> dict[str, str]:
    """The credential id for the log. It is parsed first, because a raw path may contain any text."""
    try:
        return {"credential_id": str(UUID(request.path_params["credential_id"]))}
    except (KeyError, ValueError):
        return {}


CredentialReader = Annotated[Caller, Depends(_caller_with(Scope.CREDENTIALS_READ))]
CredentialWriter = Annotated[Caller, Depends(_caller_with(Scope.CREDENTIALS_WRITE))]
BillingReader = Annotated[Caller, Depends(_caller_with(Scope.BILLING_READ))]
BillingWriter = Annotated[Caller, Depends(_caller_with(Scope.BILLING_WRITE))]
InternalBillingWriter = Annotated[Caller, Depends(_caller_with(Scope.BILLING_WRITE, service_only=True))]
LeaseCreator = Annotated[Caller, Depends(_caller_with(Scope.LEASES_CREATE, service_only=True))]
UsageReader = Annotated[Caller, Depends(_caller_with(Scope.USAGE_READ))]
UsageWriter = Annotated[Caller, Depends(_caller_with(Scope.USAGE_WRITE))]
InternalUsageWriter = Annotated[Caller, Depends(_caller_with(Scope.USAGE_WRITE, service_only=True))]
AuditReader = Annotated[Caller, Depends(_caller_with(Scope.AUDIT_READ))]


async def _url_checker(request: Request) -> Caller:
    """The caller for a path without an organization: the token's organization, or one for all internal services."""
    principal: Principal = request.state.principal
    organization = SERVICES_ORGANIZATION if principal.is_service else principal.organization_id
    principal.require(Scope.CREDENTIALS_WRITE, organization_id=organization)
    return Caller(
        subject=principal.subject, organization_id=organization, request_id=request.state.request_id
    )


UrlCheckCaller = Annotated[Caller, Depends(_url_checker)]


def _in_range(instant: datetime) -> datetime:
    """Reject timestamps that PostgreSQL or a time zone conversion cannot represent."""
    if not _FIRST_YEAR <= instant.year <= _LAST_YEAR:
        raise ValueError("out of range")
    return instant


# In a query string `+` means a space, so the offset of `...T00:00:00+02:00` arrives as ` 02:00`.
_LOST_PLUS = re.compile(r".+:\d\d(\.\d+)? \d\d:\d\d", re.ASCII)


def _require_encoded_plus(value: object) -> object:
    if isinstance(value, str) and _LOST_PLUS.fullmatch(value):
        raise PydanticCustomError("plus_not_encoded", "Write the plus sign as %2B.")
    return value


TimestampQuery = Annotated[InputTimestamp, AfterValidator(_in_range), BeforeValidator(_require_encoded_plus)]


def only_parameters(*known: str, hint: str) -> Callable[[Request], Awaitable[None]]:
    """A dependency that rejects unknown query parameters, because a misspelled filter would return too much.

    Args:
        known: the names of the operation's parameters.
        hint: the end of the error message: how to write a parameter that is often misspelled.
    """
    names = frozenset(known)

    async def reject_unknown(request: Request) -> None:
        if not names.issuperset(request.query_params):
            raise InvalidInput.of("query", "unknown_field", f"Unknown query parameter. {hint}")

    return reject_unknown


async def _no_fields(request: Request) -> None:
    try:
        found = json.loads(await request.body() or b"{}")
    except (ValueError, RecursionError):
        raise HTTPException(400) from None
    if not isinstance(found, dict):
        raise InvalidInput.invalid_field("body", "invalid_type", "Must be an object.")
    if found:
        raise InvalidInput.of("body", "unknown_field", "Unknown field. Remove it.")


# For operations without fields: the body must be absent or an empty object.
NoFields = Annotated[None, Depends(_no_fields)]

IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=255,
        description="Makes retries safe: a repeated request with the same key and body gets the first response. Keys are kept for 24 hours.",
    ),
]
_IfMatch = Annotated[
    str | None,
    Header(
        alias="If-Match",
        description="An ETag. The change is made only if the resource still has this revision; otherwise the response is 412.",
    ),
]
_Prefer = Annotated[
    str | None,
    Header(
        alias="Prefer",
        description="`respond-async`: respond immediately and validate the key in the background.",
    ),
]


async def _respond_async(prefer: _Prefer = None) -> bool:
    """Whether `respond-async` is preferred. Other preferences and all parameters are ignored (RFC 7240)."""
    preferences = (prefer or "").split(",")
    return any(one.partition(";")[0].strip().lower() == "respond-async" for one in preferences)


RespondAsync = Annotated[bool, Depends(_respond_async)]


def etag(revision: int) -> str:
    """The ETag of a revision."""
    return f'"r{revision}"'


async def _revisions(if_match: _IfMatch = None) -> frozenset[int] | None:
    if if_match is None:
        return None
    if if_match.strip() == "*":
        return ANY_REVISION
    tags = (tag.strip() for tag in if_match.split(","))
    # A weak or unknown tag matches no revision (RFC 9110, If-Match).
    return frozenset(int(tag[2:-1]) for tag in tags if _is_etag(tag))


# A revision has at most 20 digits: it is a 64-bit integer.
_LONGEST_ETAG = len('"r"') + 20


def _is_etag(tag: str) -> bool:
    return (
        len(tag) <= _LONGEST_ETAG
        and tag.startswith('"r')
        and tag.endswith('"')
        and tag[2:-1].isascii()
        and tag[2:-1].isdigit()
    )


Revisions = Annotated[frozenset[int] | None, Depends(_revisions)]
