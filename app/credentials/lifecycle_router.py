"""Disable and enable credentials, destroy versions, delete."""

from typing import Annotated

from fastapi import APIRouter, Path, Query, Response

from app.api.dependencies import CredentialId, CredentialWriter, NoFields, Revisions, ServicesOfApp, etag
from app.api.problems import OF_BODIES, problems
from app.api.responses import answer
from app.core.errors import (
    CredentialDeleted,
    CredentialInUse,
    InsufficientScope,
    InvalidInput,
    NotFound,
    PreconditionFailed,
    SecretStoreUnavailable,
    VersionInUse,
)
from app.credentials.deletion import DeletionService
from app.credentials.enablement import EnablementService
from app.credentials.records import CredentialRecord
from app.credentials.schemas import Credential, DeletionReceipt
from app.credentials.service import CredentialService

router = APIRouter(
    prefix="/v1/organizations/{organization_id}/provider-credentials/{credential_id}", tags=["retirement"]
)

Force = Annotated[
    bool, Query(description="Delete even the credential in force or of a scheduled switch: for a leaked key.")
]

_OF_SUSPENSION = problems(
    InvalidInput,
    InsufficientScope,
    NotFound,
    CredentialDeleted,
    PreconditionFailed,
    *OF_BODIES,
    codes={422: ("unknown_field",)},
)


@router.delete(
    "",
    response_model=DeletionReceipt,
    operation_id="deleteCredential",
    summary="Destroy a credential's keys",
    response_description="What was destroyed.",
    responses=problems(
        InsufficientScope, NotFound, CredentialInUse, PreconditionFailed, SecretStoreUnavailable, InvalidInput
    ),
)
async def delete_credential(
    credential_id: CredentialId,
    caller: CredentialWriter,
    services: ServicesOfApp,
    revisions: Revisions,
    force: Force = False,
) -> Response:
    """Every version is destroyed in the secret store; the masked record and its history stay."""
    return answer(
        DeletionReceipt.of(
            await services[DeletionService].delete(caller, credential_id, force=force, revisions=revisions)
        )
    )


@router.post(
    "/disable",
    response_model=Credential,
    operation_id="disableCredential",
    summary="Use a credential for nothing",
    response_description="The credential, disabled.",
    responses=_OF_SUSPENSION,
)
async def disable_credential(
    credential_id: CredentialId,
    caller: CredentialWriter,
    services: ServicesOfApp,
    revisions: Revisions,
    _body: NoFields,
) -> Response:
    """The key is kept. Readiness says `credential_disabled` where it is in force."""
    return _answer(await services[EnablementService].disable(caller, credential_id, revisions=revisions))


@router.post(
    "/enable",
    response_model=Credential,
    operation_id="enableCredential",
    summary="Use a disabled credential again",
    response_description="The credential, in use.",
    responses=_OF_SUSPENSION,
)
async def enable_credential(
    credential_id: CredentialId,
    caller: CredentialWriter,
    services: ServicesOfApp,
    revisions: Revisions,
    _body: NoFields,
) -> Response:
    """Its key is checked again soon."""
    return _answer(await services[EnablementService].enable(caller, credential_id, revisions=revisions))


@router.post(
    "/versions/{key_version}/destroy",
    response_model=Credential,
    operation_id="destroyCredentialVersion",
    summary="Destroy a key version that is not in use",
    response_description="The credential, without that version.",
    responses=problems(
        InvalidInput,
        InsufficientScope,
        NotFound,
        VersionInUse,
        PreconditionFailed,
        SecretStoreUnavailable,
        *OF_BODIES,
        codes={422: ("unknown_field",)},
    ),
)
async def destroy_version(
    credential_id: CredentialId,
    key_version: Annotated[int, Path(ge=1, le=2_000_000_000, description="The key version.")],
    caller: CredentialWriter,
    services: ServicesOfApp,
    revisions: Revisions,
    _body: NoFields,
) -> Response:
    """For good: it cannot be rolled back to any more."""
    await services[DeletionService].destroy_version(caller, credential_id, key_version, revisions=revisions)
    return _answer(await services[CredentialService].read(caller.organization_id, credential_id))


def _answer(record: CredentialRecord) -> Response:
    return answer(Credential.of(record), headers={"ETag": etag(record.revision)})
