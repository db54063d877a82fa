"""Commands whose parent process has closed standard streams, as some supervisors do."""

import asyncio
from pathlib import Path

import pytest

from tests.support.processes.commands import BYOK, byok


@pytest.mark.parametrize("closed", ["<&-", "2>&-", "<&- 2>&-"])
async def test_a_command_runs_without_them(tmp_path: Path, closed: str) -> None:
    shell = ("sh", "-c", f'exec "$0" "$@" {closed}', *BYOK)

    made = await byok("token", "--role", "service", cwd=tmp_path, program=shell, DATA_DIR=str(tmp_path))

    assert (made.code, made.stdout.count(".")) == (0, 2), made.stderr


async def test_no_file_takes_the_place_of_a_closed_stream(tmp_path: Path) -> None:
    shell = ("sh", "-c", 'exec "$0" "$@" >&- 2>&-', *BYOK)

    made = await byok("token", "--role", "service", cwd=tmp_path, program=shell, DATA_DIR=str(tmp_path))

    assert made.code == 0
    files = await asyncio.to_thread(lambda: [path for path in tmp_path.rglob("*") if path.is_file()])
    assert [path.name for path in files] == ["signing-key.pem"]
    assert files[0].read_text().count("-----") == 4
