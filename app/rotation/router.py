"""Rotate a key, read or cancel a rotation, roll back."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Path, Request, Response

from app.api.dependencies import (
    CredentialId,
    CredentialReader,
    CredentialWriter,
    IdempotencyKey,
    NoFields,
    RespondAsync,
    Revisions,
    ServicesOfApp,
    etag,
)
from app.api.problems import OF_BODIES, problems
from app.api.responses import answer, once, resource_id
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
from app.core.url_errors import DnsUnavailable, UrlReason
from app.credentials.router import KEY_REFUSALS
from app.credentials.schemas import Credential
from app.credentials.service import CredentialService
from app.idempotency.service import Hold
from app.rotation.rollback import RollbackService
from app.rotation.schemas import Rotation, RotationCreate
from app.rotation.service import RotationService as RotationService

router = APIRouter(
    prefix="/v1/organizations/{organization_id}/provider-credentials/{credential_id}", tags=["rotation"]
)

RotationId = Annotated[UUID, Path(description="The rotation.")]


@router.post(
    "/rotations",
    status_code=201,
    response_model=Rotation,
    operation_id="rotateCredential",
    summary="Bring a new key",
    response_description="What became of the new key so far.",
    responses=problems(
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
        *OF_BODIES,
        codes={422: (*KEY_REFUSALS, "looks_like_key", "unknown_field", *UrlReason)},
    ),
)
async def rotate_credential(
    request: Request,
    body: RotationCreate,
    credential_id: CredentialId,
    caller: CredentialWriter,
    services: ServicesOfApp,
    respond_async: RespondAsync,
    revisions: Revisions,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Write the new key, check it, then switch to it. Until then, and if it is refused, the old one stays in use."""
    in_use = await services[CredentialService].read(caller.organization_id, credential_id)
    new = body.to_command(in_use.current.destination.base_url)

    async def make(held: Hold | None) -> Response:
        record = None
        if held is not None and held.is_resumed:
            record = await services[RotationService].resume(caller.organization_id, held.resource_id)
            if record is None:
                await held.rebind()
        if record is None:
            record = await services[RotationService].rotate(
                caller,
                credential_id,
                new,
                rotation_id=resource_id(held),
                wait=not respond_async,
                revisions=revisions,
            )
        headers = {"Location": f"{request.url.path}/{record.id}"}
        if respond_async:
            headers["Preference-Applied"] = "respond-async"
        return answer(Rotation.of(record), status=201, headers=headers)

    return await once(request, caller, services, idempotency_key, make)


@router.get(
    "/rotations/{rotation_id}",
    response_model=Rotation,
    operation_id="getRotation",
    summary="Read a rotation",
    response_description="The rotation.",
    responses=problems(InsufficientScope, NotFound),
)
async def get_rotation(
    credential_id: CredentialId, rotation_id: RotationId, caller: CredentialReader, services: ServicesOfApp
) -> Response:
    """Pending, or what became of it."""
    return answer(
        Rotation.of(await services[RotationService].read(caller.organization_id, credential_id, rotation_id))
    )


@router.delete(
    "/rotations/{rotation_id}",
    response_model=Rotation,
    operation_id="cancelRotation",
    summary="Cancel a pending rotation",
    response_description="The rotation, cancelled.",
    responses=problems(InsufficientScope, NotFound, RotationNotPending),
)
async def cancel_rotation(
    credential_id: CredentialId, rotation_id: RotationId, caller: CredentialWriter, services: ServicesOfApp
) -> Response:
    """The new key never goes into use, and is destroyed."""
    return answer(Rotation.of(await services[RotationService].cancel(caller, credential_id, rotation_id)))


@router.post(
    "/rollback",
    response_model=Credential,
    operation_id="rollBackCredential",
    summary="Put the key before back into use",
    response_description="The credential, with the key before in use.",
    responses=problems(
        InvalidInput,
        InsufficientScope,
        NotFound,
        CredentialDeleted,
        NoPreviousVersion,
        PreconditionFailed,
        RotationInProgress,
        *OF_BODIES,
        codes={422: ("unknown_field",)},
    ),
)
async def roll_back_credential(
    credential_id: CredentialId,
    caller: CredentialWriter,
    services: ServicesOfApp,
    revisions: Revisions,
    _body: NoFields,
) -> Response:
    """The old number and destination are in force again; the other key is kept in its stead."""
    record = await services[RollbackService].roll_back(caller, credential_id, revisions=revisions)
    return answer(Credential.of(record), headers={"ETag": etag(record.revision)})
