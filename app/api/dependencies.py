"""What handlers ask for, as annotated aliases named by nouns."""

import json
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Annotated
from uuid import UUID

import structlog
from fastapi import Depends, Header, Path, Request
from pydantic import AfterValidator
from starlette.exceptions import HTTPException

from app.api.schemas import GivenInstant
from app.auth.principal import Caller, Principal, Scope
from app.core.errors import InvalidInput
from app.core.organizations import ORGANIZATION_PATTERN
from app.core.services import Services

_FIRST_YEAR, _LAST_YEAR = 1970, 9998

# Under which internal services are counted where a path names no organization.
SERVICES_ORGANIZATION = "_services"

OrganizationId = Annotated[
    str,
    Path(
        alias="organization_id",
        pattern=ORGANIZATION_PATTERN,
        description="The organization.",
        examples=["org_acme"],
    ),
]
CredentialId = Annotated[
    UUID, Path(description="The credential.", examples=["0199a2b4-c6d8-7e01-a2b3-c4d5e6f70819"])
]


LimitId = Annotated[
    UUID, Path(description="The spend limit.", examples=["0199a2b4-c6d8-7e01-a2b3-c4d5e6f70819"])
]
ReservationId = Annotated[
    UUID, Path(description="The reservation.", examples=["0199a2b4-c6d8-7e01-a2b3-c4d5e6f70819"])
]
EndpointId = Annotated[
    UUID, Path(description="The webhook endpoint.", examples=["0199a2b4-c6d8-7e01-a2b3-c4d5e6f70819"])
]


# Dependencies are coroutines, also those that wait for nothing: FastAPI runs plain functions in a thread each.
async def _services(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


ServicesOfApp = Annotated[Services, Depends(_services)]


def _caller_with(scope: Scope, *, service_only: bool = False) -> Callable[..., Awaitable[Caller]]:
    async def caller(request: Request, organization_id: OrganizationId) -> Caller:
        principal: Principal = request.state.principal
        principal.require(scope, organization_id=organization_id, service_only=service_only)
        structlog.contextvars.bind_contextvars(organization_id=organization_id, **_credential_in(request))
        return Caller(
            subject=principal.subject, organization_id=organization_id, request_id=request.state.request_id
        )

    return caller


def _credential_in(request: Request) -> dict[str, str]:
    """For the log. Parsed ids only: a raw path may hold anything."""
    try:
        return {"credential_id": str(UUID(request.path_params["credential_id"]))}
    except (KeyError, ValueError):
        return {}


CredentialReader = Annotated[Caller, Depends(_caller_with(Scope.CREDENTIALS_READ))]
CredentialWriter = Annotated[Caller, Depends(_caller_with(Scope.CREDENTIALS_WRITE))]
BillingReader = Annotated[Caller, Depends(_caller_with(Scope.BILLING_READ))]
BillingWriter = Annotated[Caller, Depends(_caller_with(Scope.BILLING_WRITE))]
BillingService = Annotated[Caller, Depends(_caller_with(Scope.BILLING_WRITE, service_only=True))]
Leaser = Annotated[Caller, Depends(_caller_with(Scope.LEASES_CREATE, service_only=True))]
UsageReader = Annotated[Caller, Depends(_caller_with(Scope.USAGE_READ))]
UsageWriter = Annotated[Caller, Depends(_caller_with(Scope.USAGE_WRITE))]
Spender = Annotated[Caller, Depends(_caller_with(Scope.USAGE_WRITE, service_only=True))]
AuditReader = Annotated[Caller, Depends(_caller_with(Scope.AUDIT_READ))]


async def _url_checker(request: Request) -> Caller:
    """A path without an organization: the token's own, or all internal services together."""
    principal: Principal = request.state.principal
    organization = SERVICES_ORGANIZATION if principal.is_service else principal.organization_id
    principal.require(Scope.CREDENTIALS_WRITE, organization_id=organization)
    return Caller(
        subject=principal.subject, organization_id=organization, request_id=request.state.request_id
    )


UrlChecker = Annotated[Caller, Depends(_url_checker)]


def _in_range(instant: datetime) -> datetime:
    """What the database can hold, in every zone."""
    if not _FIRST_YEAR <= instant.year <= _LAST_YEAR:
        raise ValueError("out of range")
    return instant


InstantQuery = Annotated[GivenInstant, AfterValidator(_in_range)]


def only_parameters(*known: str, hint: str) -> Callable[[Request], Awaitable[None]]:
    """Refuses other parameters in the query, where a filter that is misspelt would show too much.

    Args:
        known: their names.
        hint: for whoever meant one of them.
    """
    names = frozenset(known)

    async def refuse_others(request: Request) -> None:
        if not names.issuperset(request.query_params):
            raise InvalidInput.of(
                "query",
                "unknown_field",
                f"The query has a parameter that this operation does not know. {hint}",
            )

    return refuse_others


async def _no_fields(request: Request) -> None:
    try:
        found = json.loads(await request.body() or b"{}")
    except (ValueError, RecursionError):
        raise HTTPException(400) from None
    if not isinstance(found, dict):
        raise InvalidInput.in_form("body", "invalid_type", "A JSON object is needed here.")
    if found:
        raise InvalidInput.of(
            "body", "unknown_field", "The request has a field that this operation does not know."
        )


# Of operations that take no fields: a body may be left out, or be an empty object.
NoFields = Annotated[None, Depends(_no_fields)]

IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=255,
        description="Repeating a request with the same key and body answers what was answered first. Kept 24 hours.",
    ),
]
_IfMatch = Annotated[
    str | None,
    Header(alias="If-Match", description="Change only the revision of this ETag."),
]
_Prefer = Annotated[
    str | None,
    Header(
        alias="Prefer",
        description="`respond-async`: answer at once, check in the background.",
    ),
]


async def _respond_async(prefer: _Prefer = None) -> bool:
    """What else is preferred, and parameters of it, do not matter (RFC 7240)."""
    preferences = (prefer or "").split(",")
    return any(one.partition(";")[0].strip().lower() == "respond-async" for one in preferences)


RespondAsync = Annotated[bool, Depends(_respond_async)]


def etag(revision: int) -> str:
    """The ETag of a revision."""
    return f'"r{revision}"'


async def _revisions(if_match: _IfMatch = None) -> frozenset[int] | None:
    if if_match is None or if_match.strip() == "*":
        return None
    named = (tag.strip() for tag in if_match.split(","))
    # A weak or foreign tag matches nothing, as RFC 9110 says of If-Match.
    return frozenset(int(tag[2:-1]) for tag in named if _is_etag(tag))


# Revisions are 64-bit numbers at most.
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
