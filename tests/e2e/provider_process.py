"""The fake provider as a process of its own: for callers that leave no event loop running beside them."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


@asynccontextmanager
async def provider_process() -> AsyncIterator[str]:
    """Its base URL, once it listens."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.fake_anthropic", stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        line = await process.stdout.readline()
        assert line, "the fake provider did not start"
        yield line.decode().strip()
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()
