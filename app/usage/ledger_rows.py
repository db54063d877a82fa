"""Rows of the ledger by column, as the database takes them: a thousand rows are thirty lists, not a thousand objects."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import NamedTuple, overload
from uuid import UUID

from app.usage.events import UsageEvent
from app.usage.records import LedgerRow, TokenUsage, UsageFlag
from app.usage_mode.modes import UsageMode


class RowCharge(NamedTuple):
    """What limits have to know of a first row."""

    started_at: datetime
    correction: int
    mode: UsageMode
    model: str
    endpoint_id: str | None
    feature: str | None
    cost: int | None
    billed: int
    reservation_id: UUID | None


class LedgerRows(Sequence[LedgerRow]):
    """First rows of events, appended one by one. A `LedgerRow` is made only for who asks for it.

    Args:
        ingested_at: of all of them.
    """

    def __init__(self, ingested_at: datetime) -> None:
        self.ingested_at = ingested_at
        self.events: list[UsageEvent] = []
        self.modes: list[UsageMode] = []
        self.credential_ids: list[UUID | None] = []
        self.key_versions: list[int | None] = []
        self.tokens: list[TokenUsage] = []
        self.costs: list[int | None] = []
        self.billed: list[int] = []
        self.price_versions: list[str | None] = []
        self.flags: list[int] = []

    def append(
        self,
        event: UsageEvent,
        *,
        mode: UsageMode,
        credential_id: UUID | None,
        key_version: int | None,
        tokens: TokenUsage,
        cost: int | None,
        billed: int,
        price_version: str | None,
        flags: int,
    ) -> None:
        self.events.append(event)
        self.modes.append(mode)
        self.credential_ids.append(credential_id)
        self.key_versions.append(key_version)
        self.tokens.append(tokens)
        self.costs.append(cost)
        self.billed.append(billed)
        self.price_versions.append(price_version)
        self.flags.append(flags)

    def uses(self) -> Iterable[tuple[UUID, int | None, datetime]]:
        """Which key was used when."""
        for event, credential_id, key_version in zip(
            self.events, self.credential_ids, self.key_versions, strict=True
        ):
            if credential_id is not None:
                yield credential_id, key_version, event.started_at

    def charges(self) -> Sequence[RowCharge]:
        """All rows, for the limits: as little of each as they need."""
        return [
            RowCharge(
                it.started_at, 0, mode, it.model, it.endpoint_id, it.feature, cost, billed, it.reservation_id
            )
            for it, mode, cost, billed in zip(self.events, self.modes, self.costs, self.billed, strict=True)
        ]

    def __len__(self) -> int:
        return len(self.events)

    @overload
    def __getitem__(self, at: int) -> LedgerRow: ...

    @overload
    def __getitem__(self, at: slice) -> Sequence[LedgerRow]: ...

    def __getitem__(self, at: int | slice) -> LedgerRow | Sequence[LedgerRow]:
        if isinstance(at, slice):
            return [self._row(number) for number in range(*at.indices(len(self)))]
        return self._row(at)

    def _row(self, at: int) -> LedgerRow:
        event = self.events[at]
        return LedgerRow(
            started_at=event.started_at,
            event_id=event.event_id,
            correction=0,
            completed_at=event.completed_at,
            ingested_at=self.ingested_at,
            mode=self.modes[at],
            credential_id=self.credential_ids[at],
            key_version=self.key_versions[at],
            model=event.model,
            endpoint_id=event.endpoint_id,
            feature=event.feature,
            session_id=event.session_id,
            prompt_id=event.prompt_id,
            outcome=event.outcome,
            usage_source=event.usage_source,
            service_tier=event.usage.service_tier,
            speed=event.usage.speed,
            inference_geo=event.usage.inference_geo,
            tokens=self.tokens[at],
            cost=self.costs[at],
            billed=self.billed[at],
            price_version=self.price_versions[at],
            flags=UsageFlag(self.flags[at]),
            provider_request_id=event.provider_request_id,
            reservation_id=event.reservation_id,
        )
