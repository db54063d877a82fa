"""Put spend aside before a request, and give it back where none was made. For internal services."""

from fastapi import APIRouter, Request, Response

from app.api.dependencies import IdempotencyKey, ReservationId, ServicesOfApp, Spender, UsageWriter
from app.api.problems import OF_BODIES, problems
from app.api.responses import answer, once, resource_id
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
from app.idempotency.service import Hold
from app.spend_limits.reservation_schemas import ReservationCreate, SpendReservation
from app.spend_limits.reservation_service import ReservationService

router = APIRouter(
    prefix="/v1/organizations/{organization_id}/spend-reservations", tags=["spend reservations"]
)


@router.post(
    "",
    status_code=201,
    response_model=SpendReservation,
    operation_id="createSpendReservation",
    summary="Reserve spend",
    response_description="The reservation.",
    responses=problems(
        InvalidInput,
        InsufficientScope,
        ServiceOnly,
        NotFound,
        SpendLimitExceeded,
        IdempotencyInProgress,
        IdempotencyKeyReused,
        *OF_BODIES,
        codes={422: ("unknown_field", "amount_and_tokens")},
    ),
)
async def create_spend_reservation(
    request: Request,
    body: ReservationCreate,
    caller: Spender,
    services: ServicesOfApp,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Held against every limit that applies, or refused by the first that has no room.

    Without an amount, the most that the tokens may cost is held. Where the model has no known price,
    a blocking limit refuses, with `reason` `price_unknown`. The usage mode is the one in force now.
    """
    wanted = body.to_request()

    async def make(held: Hold | None) -> Response:
        made = None
        if held is not None and held.is_resumed:
            made = await services[ReservationService].find(caller.organization_id, held.resource_id)
        if made is None:
            made = await services[ReservationService].reserve(
                caller, wanted, reservation_id=resource_id(held)
            )
        return answer(SpendReservation.of(caller.organization_id, made), status=201)

    return await once(request, caller, services, idempotency_key, make)


@router.delete(
    "/{reservation_id}",
    response_model=SpendReservation,
    operation_id="releaseSpendReservation",
    summary="Release a reservation",
    response_description="The reservation, released.",
    responses=problems(InsufficientScope, NotFound, ReservationEnded),
)
async def release_spend_reservation(
    reservation_id: ReservationId, caller: UsageWriter, services: ServicesOfApp
) -> Response:
    """For a request that was not made. Once its time to live is over it counts as made, and only its event ends it."""
    released = await services[ReservationService].release(caller, reservation_id)
    return answer(SpendReservation.of(caller.organization_id, released))
