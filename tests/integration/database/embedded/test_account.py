"""Tests of the account that runs the embedded PostgreSQL for root."""

import asyncio
import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import Iterator
from uuid import uuid4

import pytest

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("useradd") is None,
    reason="creates an account, which needs root and useradd",
)

CREATE = """
import sys
from pathlib import Path
from app.database.embedded.account import account_for
print(account_for(Path("/nonexistent"), sys.argv[1]).pw_uid)
"""


@pytest.fixture
def name() -> Iterator[str]:
    name = f"byok-test-{uuid4().hex[:8]}"
    yield name
    subprocess.run(["userdel", name], check=False, capture_output=True)  # noqa: S607  # of the machine


async def create(name: str) -> int:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", CREATE, name, stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    return int(output)


async def test_processes_that_start_at_once_share_one_account(name: str) -> None:
    ids = await asyncio.gather(*(create(name) for _ in range(4)))

    assert set(ids) == {pwd.getpwnam(name).pw_uid}
