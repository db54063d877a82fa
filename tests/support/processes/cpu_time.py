"""CPU time that machines can compare: a busy or slow machine takes more of it for the same work."""

import statistics
import time

# What an import does most: it compiles and runs small functions.
_WORK = "\n".join(f"def f{i}(a, *, b=None):\n    return [a + x for x in range(b or {i})]" for i in range(600))
# The CPU time of this work on the quiet machine for which the bounds are written.
_QUIET_SECONDS = 0.0208
_REPEATS = 15


def slowdown() -> float:
    """How many times more CPU time this machine takes now than the quiet one; at least 1.

    A thread takes up to 1.7 times as much while the other thread of its core is busy.
    """
    times = []
    for _ in range(_REPEATS):
        begin = time.process_time()
        compile(_WORK, "work", "exec")
        times.append(time.process_time() - begin)
    return max(1.0, statistics.median(times) / _QUIET_SECONDS)
