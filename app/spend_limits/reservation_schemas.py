"""Request and response models of spend reservations."""

from datetime import timedelta
from enum import StrEnum
from typing import Annotated
from uuid import UUID

from pydantic import AfterValidator, Field

from app.api.money import Money, MoneyAmount
from app.api.schemas import OrganizationId, RequestModel, ResponseModel, Timestamp
from app.api.text import require_plain
from app.core.errors import InvalidInput
from app.spend_limits.limits import ExpectedUsage
from app.spend_limits.reservation_service import ReservationRequest
from app.spend_limits.reservations import DEFAULT_TTL, MAX_TTL
from app.spend_limits.reservations import Reservation as ReservationRecord
from app.usage_events.dimensions import Dimension, ModelId
from app.usage_mode.modes import UsageMode

# More than any model reads or writes. At any price, the cost of that many tokens is below the largest amount.
_MAX_TOKENS = 10_000_000
_MAX_WEB_SEARCHES = 100_000
_Tokens = Annotated[int, Field(strict=True, ge=0, le=_MAX_TOKENS, examples=[4096])]
# Like the fields of Anthropic's usage object. A value without a known price counts as the standard one, as in the ledger.
_ConditionText = Annotated[str, Field(min_length=1, max_length=64), AfterValidator(require_plain)]
_IGNORED_DIMENSION = Field(
    description="Ignored, because no spend limit has it in its scope. Accepted, so that a client can send all dimensions"
    " of a request."
)


class ReservationCreate(RequestModel):
    """The spend to reserve: an amount, or a model with its input tokens and maximum output tokens."""

    amount: Annotated[
        MoneyAmount | None, Field(description="The amount to reserve, instead of the token counts.")
    ] = None
    model: Annotated[
        ModelId | None,
        Field(
            description="Required with token counts. With an amount, it only selects the limits that apply."
        ),
    ] = None
    input_tokens: Annotated[
        _Tokens | None,
        Field(description="Input tokens of all classes. The price of the most expensive class is assumed."),
    ] = None
    max_output_tokens: _Tokens | None = None
    max_web_searches: Annotated[
        int | None,
        Field(
            strict=True,
            ge=0,
            le=_MAX_WEB_SEARCHES,
            description="The most web searches that the request may make. Null: none. Ignored with an amount, as are the three below.",
            examples=[5],
        ),
    ] = None
    service_tier: Annotated[
        _ConditionText | None,
        Field(description="The service tier, for example `batch`. Null: standard.", examples=["batch"]),
    ] = None
    speed: Annotated[
        _ConditionText | None,
        Field(description="The speed that the request asks for. Null: standard.", examples=["fast"]),
    ] = None
    inference_geo: Annotated[
        _ConditionText | None,
        Field(description="The geography that the request is restricted to. Null: global.", examples=["us"]),
    ] = None
    endpoint_id: Dimension | None = None
    feature: Dimension | None = None
    session_id: Annotated[Dimension | None, _IGNORED_DIMENSION] = None
    prompt_id: Annotated[Dimension | None, _IGNORED_DIMENSION] = None
    credential_id: Annotated[UUID | None, _IGNORED_DIMENSION] = None
    ttl_seconds: Annotated[
        int,
        Field(
            strict=True,
            ge=1,
            le=int(MAX_TTL.total_seconds()),
            description="After this time the request counts as made: the amount stays reserved until the usage event of"
            " the request is ingested, or until the reservation is released.",
        ),
    ] = int(DEFAULT_TTL.total_seconds())

    def to_request(self) -> ReservationRequest:
        """The request as the service takes it.

        Raises:
            InvalidInput: it has both an amount and tokens, or neither.
        """
        tokens = {"input_tokens": self.input_tokens, "max_output_tokens": self.max_output_tokens}
        if self.amount is None:
            for name, value in {"model": self.model, **tokens}.items():
                if value is None:
                    raise InvalidInput.invalid_field(
                        name,
                        "required",
                        "Required without an amount. Send an amount, or the model and both token counts.",
                    )
        elif any(value is not None for value in tokens.values()):
            raise InvalidInput.of(
                "amount",
                "amount_and_tokens",
                "Must not be sent with token counts. Send either an amount or token counts.",
            )
        return ReservationRequest(
            amount=None if self.amount is None else self.amount.pico,
            model=self.model,
            endpoint_id=self.endpoint_id,
            feature=self.feature,
            ttl=timedelta(seconds=self.ttl_seconds),
            expected=self._expected_usage(),
        )

    def _expected_usage(self) -> ExpectedUsage | None:
        if self.model is None or self.input_tokens is None or self.max_output_tokens is None:
            return None
        return ExpectedUsage(
            model=self.model,
            input_tokens=self.input_tokens,
            max_output_tokens=self.max_output_tokens,
            max_web_searches=self.max_web_searches or 0,
            service_tier=self.service_tier,
            speed=self.speed,
            inference_geo=self.inference_geo,
        )


class ReservationState(StrEnum):
    """The state of a reservation. It is charged until it is settled or released."""

    OPEN = "open"
    EXPIRED = "expired"
    UNPRICED = "unpriced"
    SETTLED = "settled"
    RELEASED = "released"


class SpendReservation(ResponseModel):
    """Reserved spend. The usage event of the request must name its `id` as `reservation_id`."""

    id: UUID
    organization_id: OrganizationId
    amount: Annotated[
        Money | None,
        Field(
            description="The reserved amount. Null if the price is not known and no blocking limit applies."
        ),
    ]
    usage_mode: Annotated[
        UsageMode,
        Field(
            description="The usage mode that was active when the reservation was created.",
            examples=[UsageMode.MANAGED.value],
        ),
    ]
    model: Annotated[str | None, Field(examples=["claude-sonnet-4-5"])]
    endpoint_id: Annotated[str | None, Field(examples=[None])]
    feature: Annotated[str | None, Field(examples=["assistant"])]
    state: Annotated[
        ReservationState,
        Field(
            description="`open`: waits for its usage event. `expired`: open, and its time to live has passed."
            " `unpriced`: its usage event has no known price yet. All three are charged. `settled`: its usage event"
            " counts instead. `released`: the request was not made.",
            examples=[ReservationState.OPEN.value],
        ),
    ]
    created_at: Timestamp
    expires_at: Timestamp

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
            state=ReservationState.EXPIRED if record.has_expired else ReservationState(record.state.value),
            created_at=record.created_at,
            expires_at=record.expires_at,
        )
