"""Parts of a report: consecutive buckets that PostgreSQL computes together. A page needs only the first ones.

A report by session of a month may have a million groups, and a page a thousand. Results are in the order of their buckets,
so the later buckets are not computed before a page needs them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY

_INSTANT = sa.DateTime(timezone=True)
_COLUMNS: dict[str, sa.types.TypeEngine[Any]] = {
    "first_bucket": sa.Integer(),
    "end_bucket": sa.Integer(),
    "starting_at": _INSTANT,
    "ending_at": _INSTANT,
}
PARTS = (
    sa.func.unnest(*(sa.bindparam(f"part_{name}", type_=ARRAY(it)) for name, it in _COLUMNS.items()))
    .table_valued(*(sa.column(name, it) for name, it in _COLUMNS.items()), with_ordinality="number")
    .render_derived(name="part")
)


def _of_part(name: str) -> sa.ColumnElement[Any]:
    # As text, because SQLAlchemy would add the parts once more to each inner SELECT that names them.
    return sa.literal_column(f"part.{name}", _COLUMNS[name])


# The end is exclusive. Buckets are numbered from 1.
PART_BUCKETS = (_of_part("first_bucket"), _of_part("end_bucket"))
PART_TIMES = (_of_part("starting_at"), _of_part("ending_at"))


@dataclass(frozen=True, slots=True)
class PartSizes:
    """How many buckets the first part has, and each later one in proportion to all before it, so that there are few.

    PostgreSQL computes one part more than a page needs: it has the last row of a part when it sees the next one.
    """

    first: int
    growth: float


# A part costs PostgreSQL little more than its rows of the ledger.
OF_LEDGER = PartSizes(1, 0.25)
# Most reports from rollups have few groups, such as a month of days by model, and each part reads the unaggregated rows again.
OF_ROLLUPS = PartSizes(31, 2)


def part_values(edges: Sequence[datetime], sizes: PartSizes) -> dict[str, list[Any]]:
    """Return the parameters of the parts."""
    buckets = len(edges) - 1
    starts = [0]
    while (start := starts[-1] + max(sizes.first, int(starts[-1] * sizes.growth))) < buckets:
        starts.append(start)
    bounds = list(pairwise([*starts, buckets]))
    return {
        "part_first_bucket": [start + 1 for start, _ in bounds],
        "part_end_bucket": [end + 1 for _, end in bounds],
        "part_starting_at": [edges[start] for start, _ in bounds],
        "part_ending_at": [edges[end] for _, end in bounds],
    }
