"""Routes: rotate a key, get and cancel a rotation, roll back."""

from typing import Annotated
from uuid import UUID

from fastapi import Path, Request, Response

from app.api.dependencies import (
    AppServices,
    CredentialId,
    CredentialReader,
    CredentialWriter,
    IdempotencyKey,
    NoFields,
    RespondAsync,
    Revisions,
    etag,
)
from app.api.problems import BODY_ERRORS, problems
from app.api.responses import once, respond, response_headers
from app.api.routing import Router
from app.core.errors import (
    CredentialDeleted,
    DuplicateKey,
    IdempotencyInProgress,
    IdempotencyKeyReused,
    InsufficientScope,
    InvalidInput,
    NoPreviousVersion,
    NotFound,
    PreconditionFailed,
    RateLimited,
    RotationInProgress,
    RotationNotPending,
    SecretStoreUnavailable,
    TooManyVersions,
)
from app.core.keys.pasted_key import KEY_REFUSALS
from app.core.url_errors import DnsUnavailable, UrlReason
from app.credentials.rotations import RotationRecord
from app.credentials.schemas import Credential
from app.credentials.service import CredentialService
from app.rotation.rollback import RollbackService
from app.rotation.schemas import Rotation, RotationCreate
from app.rotation.service import RotationService

router = Router(
    prefix="/v1/organizations/{organization_id}/provider-credentials/{credential_id}", tags=["rotation"]
)

RotationId = Annotated[UUID, Path(description="The rotation's id.")]


@router.post(
    "/rotations",
    status_code=201,
    response_model=Rotation,
    operation_id="rotateCredential",
    summary="Rotate a credential's key",
    response_description="The rotation, with its state and the validation result of the new key.",
    responses=response_headers("Location", status=201)
    | problems(
        InvalidInput,
        InsufficientScope,
        NotFound,
        CredentialDeleted,
        DuplicateKey,
        PreconditionFailed,
        RotationInProgress,
        TooManyVersions,
        IdempotencyInProgress,
        IdempotencyKeyReused,
        RateLimited,
        SecretStoreUnavailable,
        DnsUnavailable,
        *BODY_ERRORS,
        codes={422: (*KEY_REFUSALS, "looks_like_key", "unknown_field", *UrlReason)},
    ),
)
async def rotate_credential(
    request: Request,
    body: RotationCreate,
    credential_id: CredentialId,
    caller: CredentialWriter,
    services: AppServices,
    respond_async: RespondAsync,
    revisions: Revisions,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Rotate a credential to a new key: save it, validate it, then activate it.

    The active version stays active until then, and if the provider rejects the new key. The replaced version
    becomes `previous` and is kept for rollback, unless `destroy_previous` is `immediately`. With
    `activate: immediately`, the new key is activated before it is validated. While the validation is
    indeterminate, the rotation stays `pending`; it is retried for 24 hours and then rejected. The response
    waits up to 15 seconds for the result; with `Prefer: respond-async` it does not wait. With an
    `Idempotency-Key`, repeating the request returns the first response.
    """
    credential = await services[CredentialService].read(caller.organization_id, credential_id)
    new = body.to_command(credential.active_version.endpoint.base_url)

    def to_response(record: RotationRecord) -> Response:
        headers = {"Location": f"{request.url.path}/{record.id}"}
        if respond_async:
            headers["Preference-Applied"] = "respond-async"
        return respond(Rotation.of(record), status=201, headers=headers)

    return await once(
        request,
        caller,
        services,
        idempotency_key,
        resume=lambda id_: services[RotationService].resume(caller.organization_id, id_),
        renews_id=True,
        create=lambda id_: services[RotationService].rotate(
            caller, credential_id, new, rotation_id=id_, wait=not respond_async, revisions=revisions
        ),
        to_response=to_response,
    )


@router.get(
    "/rotations/{rotation_id}",
    response_model=Rotation,
    operation_id="getRotation",
    summary="Get a rotation",
    response_description="The rotation.",
    responses=problems(InsufficientScope, NotFound),
)
async def get_rotation(
    credential_id: CredentialId, rotation_id: RotationId, caller: CredentialReader, services: AppServices
) -> Response:
    """Get a rotation, with its state and the validation result of the new key."""
    return respond(
        Rotation.of(await services[RotationService].read(caller.organization_id, credential_id, rotation_id))
    )


@router.delete(
    "/rotations/{rotation_id}",
    response_model=Rotation,
    operation_id="cancelRotation",
    summary="Cancel a rotation",
    response_description="The cancelled rotation.",
    responses=problems(InsufficientScope, NotFound, RotationNotPending),
)
async def cancel_rotation(
    credential_id: CredentialId, rotation_id: RotationId, caller: CredentialWriter, services: AppServices
) -> Response:
    """Cancel a pending rotation. The new key is never activated, and is destroyed.

    The active version does not change.
    """
    return respond(Rotation.of(await services[RotationService].cancel(caller, credential_id, rotation_id)))


@router.post(
    "/rollback",
    response_model=Credential,
    operation_id="rollBackCredential",
    summary="Roll back to the previous key",
    response_description="The credential after the rollback.",
    responses=response_headers("ETag")
    | problems(
        InvalidInput,
        InsufficientScope,
        NotFound,
        CredentialDeleted,
        NoPreviousVersion,
        PreconditionFailed,
        RotationInProgress,
        *BODY_ERRORS,
        codes={422: ("unknown_field",)},
    ),
)
async def roll_back_credential(
    credential_id: CredentialId,
    caller: CredentialWriter,
    services: AppServices,
    revisions: Revisions,
    _body: NoFields,
) -> Response:
    """Activate the previous key version again, with its version number and endpoint.

    The replaced version becomes `previous`, and is kept for another rollback until its retention expires.
    """
    record = await services[RollbackService].roll_back(caller, credential_id, revisions=revisions)
    return respond(Credential.of(record), headers={"ETag": etag(record.revision)})
