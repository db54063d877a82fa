"""Ask for a check of a credential; read the verdicts so far."""

from uuid import UUID

from fastapi import APIRouter, Request, Response

from app.api.dependencies import (
    CredentialId,
    CredentialReader,
    CredentialWriter,
    IdempotencyKey,
    NoFields,
    RespondAsync,
    ServicesOfApp,
)
from app.api.pagination import Paging
from app.api.problems import OF_BODIES, problems
from app.api.responses import answer, once, resource_id
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
from app.credentials.verdicts import ValidationRecord
from app.idempotency.service import Hold
from app.validation.schemas import Validation
from app.validation.service import ValidationService as ValidationService

router = APIRouter(
    prefix="/v1/organizations/{organization_id}/provider-credentials/{credential_id}/validations",
    tags=["validation"],
)


@router.post(
    "",
    status_code=201,
    response_model=Validation,
    operation_id="validateCredential",
    response_description="The check with its verdict; pending with `Prefer: respond-async`.",
    summary="Check the key in use now",
    responses=problems(
        InsufficientScope,
        NotFound,
        CredentialDeleted,
        IdempotencyInProgress,
        IdempotencyKeyReused,
        InvalidInput,
        RateLimited,
        *OF_BODIES,
        codes={422: ("unknown_field",)},
    ),
)
async def validate_credential(
    request: Request,
    credential_id: CredentialId,
    caller: CredentialWriter,
    services: ServicesOfApp,
    respond_async: RespondAsync,
    _body: NoFields,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Ask the provider whether the key works. A check that is running already is joined, not doubled."""

    async def make(held: Hold | None) -> Response:
        record = await services[ValidationService].request(
            caller,
            credential_id,
            validation_id=resource_id(held),
            is_resumed=held is not None and held.is_resumed,
            wait=not respond_async,
        )
        headers = {"Preference-Applied": "respond-async"} if respond_async else None
        return answer(Validation.of(record), status=201, headers=headers)

    return await once(request, caller, services, idempotency_key, make)


@router.get(
    "",
    response_model=Page[Validation],
    operation_id="listValidations",
    response_description="One page of checks.",
    summary="List a credential's checks",
    responses=problems(InvalidInput, InsufficientScope, NotFound, codes={422: ("page_invalid",)}),
)
async def list_validations(
    credential_id: CredentialId, caller: CredentialReader, services: ServicesOfApp, paging: Paging
) -> Response:
    """The newest first."""
    records = await services[ValidationService].page(
        caller.organization_id, credential_id, at_most=paging.at_most, before=paging.before_id()
    )
    return paging.answer(records, Validation.of, _id)


def _id(record: ValidationRecord) -> UUID:
    return record.id
