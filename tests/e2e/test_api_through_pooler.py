"""A part of the API's tests, run through PgBouncer in transaction mode. BYOK_TEST_POOLER=1 runs all of them so."""

import asyncio
import os
import sys

from tests.support.documentation import ROOT
from tests.support.fault_injection import sampled
from tests.support.requirements import needs_pooler

# Idempotency keys and readiness, scheduled changes, spend limits under concurrency, and webhooks: in turn, or all.
PACKAGES = sampled(
    ("idempotency", "readiness", "usage_mode", "webhooks", "spend_limits/test_spend_reservations.py")
)


@needs_pooler
async def test_passes_with_fewer_sessions_than_connections() -> None:
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "COV_"))
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:schemathesis"),
        *(f"tests/api/{package}" for package in PACKAGES),
        cwd=ROOT,
        env=environment | {"BYOK_TEST_POOLER": "1"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()

    assert process.returncode == 0, output.decode()[-4000:]
    assert b" passed" in output
