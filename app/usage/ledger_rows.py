"""Ledger rows by column, as the bulk insert needs them: 1,000 rows are about 30 lists, not 1,000 objects.

An event has one row for each model that worked on it. `parts` numbers them, from 0 for the model that served it.
"""

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import NamedTuple, overload
from uuid import UUID

from app.usage_events.events import UsageEvent
from app.usage_events.records import LedgerRow, TokenUsage, UsageFlag
from app.usage_mode.modes import UsageMode


class RowCharge(NamedTuple):
    """The values of a row that spend limits need."""

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
    """The rows of new events. A `LedgerRow` is created only when it is accessed.

    Args:
        ingested_at: the ingestion time of all rows.
    """

    def __init__(self, ingested_at: datetime) -> None:
        self.ingested_at = ingested_at
        self.events: list[UsageEvent] = []
        self.parts: list[int] = []
        self.models: list[str] = []
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
        part: int,
        model: str,
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
        self.parts.append(part)
        self.models.append(model)
        self.modes.append(mode)
        self.credential_ids.append(credential_id)
        self.key_versions.append(key_version)
        self.tokens.append(tokens)
        self.costs.append(cost)
        self.billed.append(billed)
        self.price_versions.append(price_version)
        self.flags.append(flags)

    def uses(self) -> Iterable[tuple[UUID, int | None, datetime]]:
        """Yield credential, key version and time of each use of a key."""
        for event, credential_id, key_version in zip(
            self.events, self.credential_ids, self.key_versions, strict=True
        ):
            if credential_id is not None:
                yield credential_id, key_version, event.started_at

    def charges(self) -> Iterator[RowCharge]:
        """Yield all rows, reduced to the values that spend limits need."""
        return (
            RowCharge(
                it.started_at,
                0,
                mode,
                model,
                it.endpoint_id,
                it.feature,
                cost,
                billed,
                it.reservation_id,
            )
            for it, mode, model, cost, billed in zip(
                self.events, self.modes, self.models, self.costs, self.billed, strict=True
            )
        )

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
            part=self.parts[at],
            correction=0,
            completed_at=event.completed_at,
            ingested_at=self.ingested_at,
            mode=self.modes[at],
            credential_id=self.credential_ids[at],
            key_version=self.key_versions[at],
            model=self.models[at],
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
            corrects=event.corrects,
        )
