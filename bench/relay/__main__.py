"""`python -m bench.relay`: only the benchmark of the relay."""

import asyncio

from bench.measures import table
from bench.relay import comparison

print(table(asyncio.run(comparison.run())))
