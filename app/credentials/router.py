"""Routes: create, list, get and update credentials; list key versions."""

from typing import Annotated

from fastapi import Query, Request, Response

from app.api.dependencies import (
    AppServices,
    CredentialId,
    CredentialReader,
    CredentialWriter,
    IdempotencyKey,
    RespondAsync,
    Revisions,
    etag,
)
from app.api.pagination import Paging
from app.api.problems import BODY_ERRORS, problems
from app.api.responses import once, respond, response_headers
from app.api.routing import Router
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
    TooManyCredentials,
)
from app.core.keys.pasted_key import KEY_REFUSALS
from app.core.url_errors import DnsUnavailable, UrlReason
from app.credentials.records import CredentialRecord, VersionRecord
from app.credentials.records import CredentialState as State
from app.credentials.schemas import Credential, CredentialCreate, CredentialState, CredentialUpdate
from app.credentials.service import CredentialService
from app.credentials.version_schemas import CredentialVersion

router = Router(prefix="/v1/organizations/{organization_id}/provider-credentials", tags=["credentials"])


@router.post(
    "",
    status_code=201,
    response_model=Credential,
    operation_id="createCredential",
    response_description="The credential, masked, with the validation result of its key.",
    summary="Create a credential",
    responses=response_headers("ETag", "Location", status=201)
    | problems(
        InvalidInput,
        DuplicateKey,
        TooManyCredentials,
        IdempotencyInProgress,
        IdempotencyKeyReused,
        InsufficientScope,
        NotFound,
        RateLimited,
        SecretStoreUnavailable,
        DnsUnavailable,
        *BODY_ERRORS,
        codes={422: (*KEY_REFUSALS, "looks_like_key", "unknown_field", *UrlReason)},
    ),
)
async def create_credential(
    request: Request,
    body: CredentialCreate,
    caller: CredentialWriter,
    services: AppServices,
    respond_async: RespondAsync,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Save a provider key in the secret store, activate it and validate it at the provider.

    No response ever contains the key. The credential is created whatever the validation result is; a key that
    the provider rejects is shown as `invalid`. The response waits up to 15 seconds for the result. With
    `Prefer: respond-async` it does not wait, and the validation runs in the background. With an
    `Idempotency-Key`, repeating the request returns the first response. A key that another credential of the
    organization already has is rejected with `duplicate_key`.
    """
    new = body.to_command()

    def to_response(record: CredentialRecord) -> Response:
        headers = {"Location": f"{request.url.path}/{record.id}", "ETag": etag(record.revision)}
        if respond_async:
            headers["Preference-Applied"] = "respond-async"
        return respond(Credential.of(record), status=201, headers=headers)

    return await once(
        request,
        caller,
        services,
        idempotency_key,
        resume=lambda id_: services[CredentialService].resume(caller.organization_id, id_),
        renews_id=True,
        create=lambda id_: services[CredentialService].register(
            caller, new, credential_id=id_, wait=not respond_async
        ),
        to_response=to_response,
    )


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
    services: AppServices,
    paging: Paging,
    state: Annotated[
        CredentialState | None,
        Query(
            description="Return only credentials in this state. If absent, all credentials that are not deleted."
        ),
    ] = None,
) -> Response:
    """List the organization's credentials, newest first. Deleted ones are listed only with `state=deleted`."""
    records = await services[CredentialService].page(
        caller.organization_id,
        state=None if state is None else State(state),
        at_most=paging.at_most,
        before=paging.before_id(),
    )
    return paging.respond(records, Credential.of, _id)


@router.get(
    "/{credential_id}",
    response_model=Credential,
    operation_id="getCredential",
    response_description="The credential, masked.",
    summary="Get a credential",
    responses=response_headers("ETag") | problems(InsufficientScope, NotFound),
)
async def get_credential(
    credential_id: CredentialId, caller: CredentialReader, services: AppServices
) -> Response:
    """Get the masked metadata: label, key hint, fingerprint, version and validation result.

    Deleted credentials can still be read.
    """
    return _respond(await services[CredentialService].read(caller.organization_id, credential_id))


@router.patch(
    "/{credential_id}",
    response_model=Credential,
    operation_id="updateCredential",
    response_description="The updated credential.",
    summary="Update a credential",
    responses=response_headers("ETag")
    | problems(
        InvalidInput,
        InsufficientScope,
        NotFound,
        CredentialDeleted,
        PreconditionFailed,
        SecretStoreUnavailable,
        *BODY_ERRORS,
        codes={422: ("looks_like_key", "unknown_field", "destination_is_bound")},
    ),
)
async def update_credential(
    body: CredentialUpdate,
    credential_id: CredentialId,
    caller: CredentialWriter,
    services: AppServices,
    revisions: Revisions,
) -> Response:
    """Update the label by a JSON merge patch. An `If-Match` that names another revision fails.

    The endpoint is bound to the key: only a rotation changes it.
    """
    record = await services[CredentialService].rename(
        caller, credential_id, body.label if "label" in body.model_fields_set else None, revisions=revisions
    )
    return _respond(record)


@router.get(
    "/{credential_id}/versions",
    response_model=Page[CredentialVersion],
    operation_id="listCredentialVersions",
    response_description="One page of key versions, masked.",
    summary="List a credential's key versions",
    responses=problems(InvalidInput, InsufficientScope, NotFound, codes={422: ("page_invalid",)}),
)
async def list_versions(
    credential_id: CredentialId, caller: CredentialReader, services: AppServices, paging: Paging
) -> Response:
    """List the key versions of a credential, newest first, with their states and who created them."""
    records = await services[CredentialService].versions(
        caller.organization_id, credential_id, at_most=paging.at_most, before=paging.before_number()
    )
    return paging.respond(records, CredentialVersion.of, _number)


def _respond(record: CredentialRecord) -> Response:
    return respond(Credential.of(record), headers={"ETag": etag(record.revision)})


def _id(record: CredentialRecord) -> CredentialId:
    return record.id


def _number(record: VersionRecord) -> int:
    return record.key_version
