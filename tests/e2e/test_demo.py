"""`make demo` runs to the end."""

import asyncio
import subprocess
import sys

import pytest


@pytest.mark.slow
class TestDemo:
    async def test_every_step_has_the_expected_result(self) -> None:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.demo"), stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )

        stdout, _ = await process.communicate()

        assert process.returncode == 0, stdout.decode()
        assert "WRONG" not in stdout.decode()
