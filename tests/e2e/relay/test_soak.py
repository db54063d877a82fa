"""A short soak: half load, clients that leave, rotations; the ledger equals what the provider counted.

`python -m bench.relay.soak --minutes 20` runs it for long.
"""

import pytest

from bench.measures import table
from bench.relay.soak import soak
from tests.support.fault_injection import ALL_CRASHES

MINUTES = 1.0
# After a minute the first allocations still count.
MAX_GROWTH = 0.15

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not ALL_CRASHES, reason="runs for more than a minute: make test-exhaustive"),
]


async def test_half_load_for_a_minute_loses_nothing() -> None:
    measures = await soak(minutes=MINUTES, max_growth=MAX_GROWTH)

    print(table(measures))
    assert [measure.name for measure in measures if not measure.is_met] == []
