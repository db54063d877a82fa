"""HTTP endpoint for leases: internal services get single-use access to the active key."""

from datetime import timedelta

from fastapi import Response

from app.api.dependencies import AppServices, LeaseCreator
from app.api.problems import BODY_ERRORS, problems
from app.api.responses import respond
from app.api.routing import Router
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

router = Router(prefix="/v1/organizations/{organization_id}/credential-leases", tags=["leases"])


@router.post(
    "",
    status_code=201,
    response_model=Lease,
    operation_id="createLease",
    summary="Lease the active key",
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
        *BODY_ERRORS,
        codes={422: ("unknown_field",)},
    ),
)
async def create_lease(body: LeaseCreate, caller: LeaseCreator, services: AppServices) -> Response:
    """Create a single-use wrapping token with which an internal service fetches the active key from Vault.

    The key does not pass through this API. The lease counts as a use of the key and is in the audit log before the
    response is sent. Requires a token for internal services (`org=*`) with the scope `leases:create`, and keys stored in
    Vault. Not idempotent: every request creates a new token, and `Idempotency-Key` is ignored.
    """
    lease = await services[LeaseService].create(caller, ttl=timedelta(seconds=body.ttl_seconds))
    return respond(Lease.of(lease), status=201)
