"""Register, list, read and rename credentials; list their key versions."""

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from app.api.dependencies import (
    CredentialId,
    CredentialReader,
    CredentialWriter,
    IdempotencyKey,
    RespondAsync,
    Revisions,
    ServicesOfApp,
    etag,
)
from app.api.pagination import Paging
from app.api.problems import OF_BODIES, problems
from app.api.responses import answer, once, resource_id
from app.api.schemas import Page
from app.core.errors import (
    CredentialDeleted,
    DuplicateKey,
    IdempotencyInProgress,
    IdempotencyKeyReused,
    InsufficientScope,
    InvalidInput,
    NotFound,
    PreconditionFailed,
    RateLimited,
    SecretStoreUnavailable,
)
from app.core.url_errors import DnsUnavailable, UrlReason
from app.credentials.records import CredentialRecord, VersionRecord
from app.credentials.records import CredentialState as State
from app.credentials.schemas import Credential, CredentialCreate, CredentialState, CredentialUpdate
from app.credentials.service import CredentialService
from app.credentials.version_schemas import CredentialVersion
from app.idempotency.service import Hold

router = APIRouter(prefix="/v1/organizations/{organization_id}/provider-credentials", tags=["credentials"])

KEY_REFUSALS = (
    "key_empty",
    "key_too_long",
    "key_has_whitespace",
    "key_malformed",
    "admin_key",
    "oauth_token",
    "session_key",
)


@router.post(
    "",
    status_code=201,
    response_model=Credential,
    operation_id="createCredential",
    response_description="The credential, masked, with the verdict on its key.",
    summary="Save a key and check it",
    responses=problems(
        InvalidInput,
        DuplicateKey,
        IdempotencyInProgress,
        IdempotencyKeyReused,
        InsufficientScope,
        NotFound,
        RateLimited,
        SecretStoreUnavailable,
        DnsUnavailable,
        *OF_BODIES,
        codes={422: (*KEY_REFUSALS, "looks_like_key", "unknown_field", *UrlReason)},
    ),
)
async def create_credential(
    request: Request,
    body: CredentialCreate,
    caller: CredentialWriter,
    services: ServicesOfApp,
    respond_async: RespondAsync,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Keep a key for later use and ask the provider whether it works. The key itself is never shown again.

    The answer waits for the verdict, 15 seconds at most; with `Prefer: respond-async` it does not.
    A key that the provider refuses is saved and shown as `invalid`.
    """
    new = body.to_command()

    async def make(held: Hold | None) -> Response:
        record = None
        if held is not None and held.is_resumed:
            record = await services[CredentialService].resume(caller.organization_id, held.resource_id)
            if record is None:
                await held.rebind()
        if record is None:
            record = await services[CredentialService].register(
                caller, new, credential_id=resource_id(held), wait=not respond_async
            )
        headers = {"Location": f"{request.url.path}/{record.id}", "ETag": etag(record.revision)}
        if respond_async:
            headers["Preference-Applied"] = "respond-async"
        return answer(Credential.of(record), status=201, headers=headers)

    return await once(request, caller, services, idempotency_key, make)


@router.get(
    "",
    response_model=Page[Credential],
    operation_id="listCredentials",
    response_description="One page of credentials, masked.",
    summary="List credentials",
    responses=problems(InvalidInput, InsufficientScope, NotFound, codes={422: ("page_invalid",)}),
)
async def list_credentials(
    caller: CredentialReader,
    services: ServicesOfApp,
    paging: Paging,
    state: Annotated[
        CredentialState | None,
        Query(description="Only those in this state; without it, all that are not deleted."),
    ] = None,
) -> Response:
    """The newest first. Deleted ones only when asked for."""
    records = await services[CredentialService].page(
        caller.organization_id,
        state=None if state is None else State(state),
        at_most=paging.at_most,
        before=paging.before_id(),
    )
    return paging.answer(records, Credential.of, _id)


@router.get(
    "/{credential_id}",
    response_model=Credential,
    operation_id="getCredential",
    response_description="The credential, masked.",
    summary="Read a credential",
    responses=problems(InsufficientScope, NotFound),
)
async def get_credential(
    credential_id: CredentialId, caller: CredentialReader, services: ServicesOfApp
) -> Response:
    """Masked metadata: label, hint, fingerprint, version, verdict. A deleted one can still be read."""
    return _answer(await services[CredentialService].read(caller.organization_id, credential_id))


@router.patch(
    "/{credential_id}",
    response_model=Credential,
    operation_id="updateCredential",
    response_description="The credential as it is now.",
    summary="Change the label",
    responses=problems(
        InvalidInput,
        InsufficientScope,
        NotFound,
        CredentialDeleted,
        PreconditionFailed,
        *OF_BODIES,
        codes={422: ("looks_like_key", "unknown_field", "destination_is_bound")},
    ),
)
async def update_credential(
    body: CredentialUpdate,
    credential_id: CredentialId,
    caller: CredentialWriter,
    services: ServicesOfApp,
    revisions: Revisions,
) -> Response:
    """A JSON merge patch of the label. The destination is bound to the key and changes only by a rotation."""
    record = await services[CredentialService].rename(
        caller, credential_id, body.label if "label" in body.model_fields_set else None, revisions=revisions
    )
    return _answer(record)


@router.get(
    "/{credential_id}/versions",
    response_model=Page[CredentialVersion],
    operation_id="listCredentialVersions",
    response_description="One page of key versions, masked.",
    summary="List a credential's key versions",
    responses=problems(InvalidInput, InsufficientScope, NotFound, codes={422: ("page_invalid",)}),
)
async def list_versions(
    credential_id: CredentialId, caller: CredentialReader, services: ServicesOfApp, paging: Paging
) -> Response:
    """Who brought which version and when, newest first."""
    records = await services[CredentialService].versions(
        caller.organization_id, credential_id, at_most=paging.at_most, before=paging.before_number()
    )
    return paging.answer(records, CredentialVersion.of, _number)


def _answer(record: CredentialRecord) -> Response:
    return answer(Credential.of(record), headers={"ETag": etag(record.revision)})


def _id(record: CredentialRecord) -> CredentialId:
    return record.id


def _number(record: VersionRecord) -> int:
    return record.key_version
