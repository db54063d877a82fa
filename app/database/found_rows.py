"""Rows of a statement that become records after the transaction has ended.

Making ten thousand records takes the event loop for long enough to pause, and a paused transaction would keep its
connection from others.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from app.core.event_loop import list_in_slices
from app.database.statements import Row

Record = TypeVar("Record")

# Each takes up to 20 microseconds.
_ROWS_PER_STEP = 20


@dataclass(frozen=True, slots=True)
class FoundRows(Generic[Record]):
    """The rows, and how to make a record of one."""

    rows: Sequence[Row]
    to_record: Callable[[Row], Record]

    async def records(self) -> list[Record]:
        """Make all records. Call it outside the transaction."""
        return await list_in_slices(
            map(self.to_record, self.rows), gives_way=True, items_per_step=_ROWS_PER_STEP
        )
