"""HTTP routes of spend reservations: create, list, get and release."""

from typing import Annotated

from fastapi import Query, Request, Response

from app.api.dependencies import (
    AppServices,
    IdempotencyKey,
    InternalUsageWriter,
    ReservationId,
    UsageReader,
    UsageWriter,
)
from app.api.pagination import Paging
from app.api.problems import BODY_ERRORS, problems
from app.api.responses import once, respond
from app.api.routing import Router
from app.api.schemas import Page
from app.core.errors import (
    IdempotencyInProgress,
    IdempotencyKeyReused,
    InsufficientScope,
    InvalidInput,
    NotFound,
    ReservationEnded,
    ServiceOnly,
    SpendLimitExceeded,
)
from app.spend_limits.reservation_schemas import ReservationCreate, SpendReservation
from app.spend_limits.reservation_service import ReservationService
from app.spend_limits.reservations import HeldState, Reservation

router = Router(prefix="/v1/organizations/{organization_id}/spend-reservations", tags=["spend reservations"])


@router.post(
    "",
    status_code=201,
    response_model=SpendReservation,
    operation_id="createSpendReservation",
    summary="Create a spend reservation",
    response_description="The reservation.",
    responses=problems(
        InvalidInput,
        InsufficientScope,
        ServiceOnly,
        NotFound,
        SpendLimitExceeded,
        IdempotencyInProgress,
        IdempotencyKeyReused,
        *BODY_ERRORS,
        codes={422: ("unknown_field", "amount_and_tokens")},
    ),
)
async def create_spend_reservation(
    request: Request,
    body: ReservationCreate,
    caller: InternalUsageWriter,
    services: AppServices,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Reserve spend before a request is made. For internal services.

    The amount counts against every spend limit that applies, in the active usage mode. If it would exceed a blocking
    limit, nothing is reserved and the response is 402 `spend_limit_exceeded`. Without an amount, the maximum cost of
    the tokens and web searches is reserved, at the speed, tier and geography that the request names. If the model has no
    known price, a blocking limit rejects the reservation with `reason` `price_unknown`.
    """
    wanted = body.to_request()
    return await once(
        request,
        caller,
        services,
        idempotency_key,
        resume=lambda id_: services[ReservationService].find(caller.organization_id, id_),
        create=lambda id_: services[ReservationService].reserve(caller, wanted, reservation_id=id_),
        to_response=lambda made: respond(SpendReservation.of(caller.organization_id, made), status=201),
    )


@router.get(
    "",
    response_model=Page[SpendReservation],
    operation_id="listSpendReservations",
    summary="List spend reservations",
    response_description="One page of reservations.",
    responses=problems(InvalidInput, InsufficientScope, NotFound, codes={422: ("page_invalid",)}),
)
async def list_spend_reservations(
    caller: UsageReader,
    services: AppServices,
    paging: Paging,
    state: Annotated[
        HeldState | None, Query(description="Only reservations in this state. Default: all that are charged.")
    ] = None,
) -> Response:
    """List the reservations that are still charged, newest first: open, expired, and those whose event has no price yet."""

    def shape(record: Reservation) -> SpendReservation:
        return SpendReservation.of(caller.organization_id, record)

    found = await services[ReservationService].page(
        caller.organization_id, state=state, at_most=paging.at_most, before=paging.before_id()
    )
    return paging.respond(found, shape, lambda record: record.id)


@router.get(
    "/{reservation_id}",
    response_model=SpendReservation,
    operation_id="getSpendReservation",
    summary="Get a spend reservation",
    response_description="The reservation.",
    responses=problems(InsufficientScope, NotFound),
)
async def get_spend_reservation(
    reservation_id: ReservationId, caller: UsageReader, services: AppServices
) -> Response:
    """Return a reservation in any state. Reservations that ended are deleted 36 days later."""
    found = await services[ReservationService].read(caller.organization_id, reservation_id)
    return respond(SpendReservation.of(caller.organization_id, found))


@router.delete(
    "/{reservation_id}",
    response_model=SpendReservation,
    operation_id="releaseSpendReservation",
    summary="Release a spend reservation",
    response_description="The released reservation.",
    responses=problems(InsufficientScope, NotFound, ReservationEnded),
)
async def release_spend_reservation(
    reservation_id: ReservationId, caller: UsageWriter, services: AppServices
) -> Response:
    """Release a reservation whose request was not made. Releasing it again returns the same reservation.

    An expired reservation stays charged until it is released or its usage event is ingested. A reservation whose usage
    event was ingested cannot be released, even if the event has no price yet.
    """
    released = await services[ReservationService].release(caller, reservation_id)
    return respond(SpendReservation.of(caller.organization_id, released))
