"""Reservations on the wire."""

from datetime import timedelta
from typing import Annotated
from uuid import UUID

from pydantic import Field

from app.api.money import Money, MoneyAmount
from app.api.schemas import Instant, OrganizationId, RequestModel, ResponseModel
from app.core.errors import InvalidInput
from app.spend_limits.reservation_service import ReservationRequest
from app.spend_limits.reservations import DEFAULT_TTL, LONGEST_TTL, ReservationState
from app.spend_limits.reservations import Reservation as ReservationRecord
from app.usage.dimensions import Dimension
from app.usage_mode.modes import UsageMode

# More than any model reads or writes; a million of them at any price is below the largest amount.
_MOST_TOKENS = 10_000_000
_Tokens = Annotated[int, Field(strict=True, ge=0, le=_MOST_TOKENS, examples=[4096])]
_NOT_LIMITED = Field(
    description="No limit tells this apart, so it is not kept; a request's dimensions may be sent as they are."
)


class ReservationCreate(RequestModel):
    """An amount; or a model, with how many tokens go in and how many may come out."""

    amount: Annotated[MoneyAmount | None, Field(description="In place of the token counts.")] = None
    model: Annotated[
        Dimension | None,
        Field(description="Needed with token counts; with an amount, what it is for."),
    ] = None
    input_tokens: Annotated[
        _Tokens | None, Field(description="Of all classes: cached or not, the dearest is assumed.")
    ] = None
    max_output_tokens: _Tokens | None = None
    endpoint_id: Dimension | None = None
    feature: Dimension | None = None
    session_id: Annotated[Dimension | None, _NOT_LIMITED] = None
    prompt_id: Annotated[Dimension | None, _NOT_LIMITED] = None
    credential_id: Annotated[UUID | None, _NOT_LIMITED] = None
    ttl_seconds: Annotated[
        int,
        Field(
            strict=True,
            ge=1,
            le=int(LONGEST_TTL.total_seconds()),
            description="After it the request counts as made: it cannot be released, and is charged until its event comes.",
        ),
    ] = int(DEFAULT_TTL.total_seconds())

    def to_request(self) -> ReservationRequest:
        """What is to be put aside.

        Raises:
            InvalidInput: both an amount and tokens, or neither.
        """
        tokens = {"input_tokens": self.input_tokens, "max_output_tokens": self.max_output_tokens}
        if self.amount is None:
            for name, value in {"model": self.model, **tokens}.items():
                if value is None:
                    raise InvalidInput.in_form(
                        name, "required", "Without an amount, the model and both token counts are needed."
                    )
        elif any(value is not None for value in tokens.values()):
            raise InvalidInput.of("amount", "amount_and_tokens", "Name an amount or token counts, not both.")
        return ReservationRequest(
            amount=None if self.amount is None else self.amount.pico,
            model=self.model,
            input_tokens=self.input_tokens or 0,
            max_output_tokens=self.max_output_tokens or 0,
            endpoint_id=self.endpoint_id,
            feature=self.feature,
            ttl=timedelta(seconds=self.ttl_seconds),
        )


class SpendReservation(ResponseModel):
    """Spend put aside. Name its id in the usage event of the request."""

    id: UUID
    organization_id: OrganizationId
    amount: Annotated[
        Money | None, Field(description="The estimate; null where no price is known and no limit blocks.")
    ]
    usage_mode: Annotated[
        UsageMode, Field(description="In force when it was made.", examples=[UsageMode.MANAGED.value])
    ]
    model: Annotated[str | None, Field(examples=["claude-sonnet-4-5"])]
    endpoint_id: Annotated[str | None, Field(examples=[None])]
    feature: Annotated[str | None, Field(examples=["assistant"])]
    state: Annotated[ReservationState, Field(examples=[ReservationState.OPEN.value])]
    created_at: Instant
    expires_at: Instant

    @classmethod
    def of(cls, organization_id: str, record: ReservationRecord) -> "SpendReservation":
        spender = record.spender
        return cls(
            id=record.id,
            organization_id=organization_id,
            amount=None if record.amount is None else Money.of(record.amount),
            usage_mode=spender.mode,
            model=spender.model,
            endpoint_id=spender.endpoint_id,
            feature=spender.feature,
            state=record.state,
            created_at=record.created_at,
            expires_at=record.expires_at,
        )
