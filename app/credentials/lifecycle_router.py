"""Routes: disable, enable and delete credentials; destroy key versions."""

import re
from typing import Annotated

from fastapi import Path, Query, Response
from pydantic import BeforeValidator, Field

from app.api.dependencies import AppServices, CredentialId, CredentialWriter, NoFields, Revisions, etag
from app.api.problems import BODY_ERRORS, problems
from app.api.responses import respond, response_headers
from app.api.routing import Router
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

router = Router(
    prefix="/v1/organizations/{organization_id}/provider-credentials/{credential_id}", tags=["retirement"]
)

Force = Annotated[
    bool,
    Query(
        description="Delete the credential even if the active or scheduled usage mode uses it, for example because"
        " the key leaked."
    ),
]

_ENABLEMENT_ERRORS = problems(
    InvalidInput,
    InsufficientScope,
    NotFound,
    CredentialDeleted,
    PreconditionFailed,
    *BODY_ERRORS,
    codes={422: ("unknown_field",)},
)


@router.delete(
    "",
    response_model=DeletionReceipt,
    operation_id="deleteCredential",
    summary="Delete a credential",
    response_description="The time of the deletion and the destroyed key versions.",
    responses=problems(
        InsufficientScope, NotFound, CredentialInUse, PreconditionFailed, SecretStoreUnavailable, InvalidInput
    ),
)
async def delete_credential(
    credential_id: CredentialId,
    caller: CredentialWriter,
    services: AppServices,
    revisions: Revisions,
    force: Force = False,
) -> Response:
    """Delete a credential and destroy all its key versions in the secret store.

    The masked record and its history stay readable. Pending rotations are cancelled and unused leases are
    revoked. A credential that the active or scheduled usage mode uses is deleted only with `force=true`.
    Repeating the request returns the same receipt.
    """
    return respond(
        DeletionReceipt.of(
            await services[DeletionService].delete(caller, credential_id, force=force, revisions=revisions)
        )
    )


@router.post(
    "/disable",
    response_model=Credential,
    operation_id="disableCredential",
    summary="Disable a credential",
    response_description="The disabled credential.",
    responses=response_headers("ETag") | _ENABLEMENT_ERRORS,
)
async def disable_credential(
    credential_id: CredentialId,
    caller: CredentialWriter,
    services: AppServices,
    revisions: Revisions,
    _body: NoFields,
) -> Response:
    """Disable a credential. Its key is kept but not used.

    If the active usage mode uses the credential, readiness reports `credential_disabled`. Disabling a disabled
    credential changes nothing.
    """
    return _respond(await services[EnablementService].disable(caller, credential_id, revisions=revisions))


@router.post(
    "/enable",
    response_model=Credential,
    operation_id="enableCredential",
    summary="Enable a credential",
    response_description="The enabled credential.",
    responses=response_headers("ETag") | _ENABLEMENT_ERRORS,
)
async def enable_credential(
    credential_id: CredentialId,
    caller: CredentialWriter,
    services: AppServices,
    revisions: Revisions,
    _body: NoFields,
) -> Response:
    """Enable a disabled credential and schedule a validation of its key. Enabling an active one changes nothing."""
    return _respond(await services[EnablementService].enable(caller, credential_id, revisions=revisions))


_CANONICAL_NUMBER = re.compile(r"[1-9][0-9]*", re.ASCII)


def _require_canonical(text: str) -> str:
    """Refuse spellings such as `01` and `1.0`: nothing is destroyed by a path that names no version."""
    if _CANONICAL_NUMBER.fullmatch(text) is None:
        raise ValueError("not canonical")
    return text


_KeyVersionInPath = Annotated[
    int,
    Field(ge=1, le=2_000_000_000),
    BeforeValidator(_require_canonical),
    Path(description="The key version."),
]


@router.post(
    "/versions/{key_version}/destroy",
    response_model=Credential,
    operation_id="destroyCredentialVersion",
    summary="Destroy a key version",
    response_description="The credential after the destruction.",
    responses=response_headers("ETag")
    | problems(
        InvalidInput,
        InsufficientScope,
        NotFound,
        VersionInUse,
        PreconditionFailed,
        SecretStoreUnavailable,
        *BODY_ERRORS,
        codes={422: ("unknown_field",)},
    ),
)
async def destroy_version(
    credential_id: CredentialId,
    key_version: _KeyVersionInPath,
    caller: CredentialWriter,
    services: AppServices,
    revisions: Revisions,
    _body: NoFields,
) -> Response:
    """Destroy a key version that is not active. It cannot be restored.

    A pending rotation to this version is cancelled. Destroying a destroyed version changes nothing.
    """
    await services[DeletionService].destroy_version(caller, credential_id, key_version, revisions=revisions)
    return _respond(await services[CredentialService].read(caller.organization_id, credential_id))


def _respond(record: CredentialRecord) -> Response:
    return respond(Credential.of(record), headers={"ETag": etag(record.revision)})
