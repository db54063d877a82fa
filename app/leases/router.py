"""Lease the key in force to an internal service."""

from datetime import timedelta

from fastapi import APIRouter, Response

from app.api.dependencies import Leaser, ServicesOfApp
from app.api.problems import OF_BODIES, problems
from app.api.responses import answer
from app.core.errors import (
    ConcurrentChange,
    InsufficientScope,
    InvalidInput,
    LeaseRequiresVault,
    ModeIsManaged,
    NotFound,
    NotReady,
    SecretStoreUnavailable,
    ServiceOnly,
)
from app.leases.schemas import Lease, LeaseCreate
from app.leases.service import LeaseService

router = APIRouter(prefix="/v1/organizations/{organization_id}/credential-leases", tags=["leases"])


@router.post(
    "",
    status_code=201,
    response_model=Lease,
    operation_id="createLease",
    summary="Lease the key in force",
    response_description="The lease.",
    responses=problems(
        InvalidInput,
        InsufficientScope,
        ServiceOnly,
        NotFound,
        ModeIsManaged,
        NotReady,
        ConcurrentChange,
        LeaseRequiresVault,
        SecretStoreUnavailable,
        *OF_BODIES,
        codes={422: ("unknown_field",)},
    ),
)
async def create_lease(body: LeaseCreate, caller: Leaser, services: ServicesOfApp) -> Response:
    """A single-use wrapping token; the key goes from Vault to the consumer and never passes through here.

    For internal services alone. Idempotency-Key is ignored: a token is never handed out twice.
    """
    lease = await services[LeaseService].create(caller, ttl=timedelta(seconds=body.ttl_seconds))
    return answer(Lease.of(lease), status=201)
