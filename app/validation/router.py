"""Routes to validate a credential and to list its validations."""

from uuid import UUID

from fastapi import Request, Response

from app.api.dependencies import (
    AppServices,
    CredentialId,
    CredentialReader,
    CredentialWriter,
    IdempotencyKey,
    NoFields,
    RespondAsync,
)
from app.api.pagination import Paging
from app.api.problems import BODY_ERRORS, problems
from app.api.responses import once, respond
from app.api.routing import Router
from app.api.schemas import Page
from app.core.errors import (
    CredentialDeleted,
    IdempotencyInProgress,
    IdempotencyKeyReused,
    InsufficientScope,
    InvalidInput,
    NotFound,
    RateLimited,
)
from app.credentials.validation_results import ValidationRecord
from app.validation.schemas import Validation
from app.validation.service import ValidationService

router = Router(
    prefix="/v1/organizations/{organization_id}/provider-credentials/{credential_id}/validations",
    tags=["validation"],
)


@router.post(
    "",
    status_code=201,
    response_model=Validation,
    operation_id="validateCredential",
    response_description="The validation with its result; pending with `Prefer: respond-async`.",
    summary="Validate a credential's active key",
    responses=problems(
        InsufficientScope,
        NotFound,
        CredentialDeleted,
        IdempotencyInProgress,
        IdempotencyKeyReused,
        InvalidInput,
        RateLimited,
        *BODY_ERRORS,
        codes={422: ("unknown_field",)},
    ),
)
async def validate_credential(
    request: Request,
    credential_id: CredentialId,
    caller: CredentialWriter,
    services: AppServices,
    respond_async: RespondAsync,
    _body: NoFields,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Ask the provider whether the active key works, and record the result.

    If a validation of this key version is already running, the response is that validation; no second one starts.
    The response waits for the result, at most 15 seconds. With `Prefer: respond-async` it is sent immediately.
    A provider that cannot be reached is not an error: the result is `indeterminate`.
    """

    def to_response(record: ValidationRecord) -> Response:
        headers = {"Preference-Applied": "respond-async"} if respond_async else None
        return respond(Validation.of(record), status=201, headers=headers)

    return await once(
        request,
        caller,
        services,
        idempotency_key,
        resume=lambda id_: services[ValidationService].resume(
            caller.organization_id, id_, wait=not respond_async
        ),
        create=lambda id_: services[ValidationService].request(
            caller, credential_id, validation_id=id_, wait=not respond_async
        ),
        to_response=to_response,
    )


@router.get(
    "",
    response_model=Page[Validation],
    operation_id="listValidations",
    response_description="One page of validations.",
    summary="List a credential's validations",
    responses=problems(InvalidInput, InsufficientScope, NotFound, codes={422: ("page_invalid",)}),
)
async def list_validations(
    credential_id: CredentialId, caller: CredentialReader, services: AppServices, paging: Paging
) -> Response:
    """List the validations of all key versions, newest first."""
    records = await services[ValidationService].page(
        caller.organization_id, credential_id, at_most=paging.at_most, before=paging.before_id()
    )
    return paging.respond(records, Validation.of, _id)


def _id(record: ValidationRecord) -> UUID:
    return record.id
