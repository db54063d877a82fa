"""What commands and starts cost in CPU time. The figures are printed.

The bounds hold on a quiet machine. On another, they are multiplied by how much more CPU time it takes for the same work.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.support.processes.commands import BYOK, environment, private_directory
from tests.support.processes.cpu_time import slowdown
from tests.support.processes.service import running

COMMAND_SECONDS = 0.4
START_SECONDS = 1.5
_RUNS = 3
# What a command need not import to report a wrong setting.
_APPLICATION = {"sqlalchemy", "fastapi", "hvac", "alembic", "asyncpg"}
# Modules that `byok token` does not need and that are slow to import.
_HEAVY = {"sqlalchemy", "fastapi", "httpx", "hvac", "jwt", "structlog", "alembic", "asyncpg", "opentelemetry"}


@pytest.fixture(autouse=True)
def without_coverage(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not measure coverage.py, whose tracer takes three times as long as a start."""
    for name in [name for name in os.environ if name.startswith("COVERAGE_")]:
        monkeypatch.delenv(name)


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    with private_directory() as directory:
        yield directory


def cpu_seconds(home: Path, *arguments: str) -> float:
    """The least CPU time of some runs."""
    times = []
    for _ in range(_RUNS):
        process = subprocess.Popen(
            [*BYOK, *arguments], cwd=home, env=environment({}), stdout=subprocess.DEVNULL
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0
        times.append(usage.ru_utime + usage.ru_stime)
    return min(times)


def _imported(home: Path, *arguments: str, **settings: str) -> set[str]:
    """The modules that a command has imported when it ends."""
    code = (
        "import sys, app.cli\n"
        f"try:\n    app.cli.main({list(arguments)})\n"
        "finally:\n    print(*sys.modules, file=sys.stderr)"
    )
    found = subprocess.run(
        [sys.executable, "-c", code],
        cwd=home,
        env=environment(settings),
        capture_output=True,
        text=True,
        check=not settings,
    )
    assert found.returncode == (2 if settings else 0), found.stderr[-2000:]
    return set(found.stderr.split())


class TestCommands:
    @pytest.mark.parametrize("arguments", [("--help",), ("token", "--role", "service")])
    def test_import_only_what_they_need(self, home: Path, arguments: tuple[str, ...]) -> None:
        assert not _HEAVY & _imported(home, *arguments)

    @pytest.mark.parametrize("arguments", [("serve",), ("worker",), ("migrate",), ("rotate-root",)])
    def test_report_a_wrong_setting_before_they_import_the_application(
        self, home: Path, arguments: tuple[str, ...]
    ) -> None:
        assert not _APPLICATION & _imported(home, *arguments, PORT="abc")

    @pytest.mark.parametrize("arguments", [("--help",), ("token", "--role", "service")])
    def test_take_little_cpu_time(
        self, home: Path, arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
    ) -> None:
        before = slowdown()
        seconds = cpu_seconds(home, *arguments)
        factor = max(before, slowdown())

        with capsys.disabled():
            print(f"\nbyok {' '.join(arguments)}: {seconds:.2f} s of CPU, machine {factor:.1f} times slower")
        assert seconds <= COMMAND_SECONDS * factor


async def test_the_second_start_takes_little_cpu_time(capsys: pytest.CaptureFixture[str]) -> None:
    async with running() as service:
        before, seconds = slowdown(), []
        for _ in range(_RUNS):
            await service.stop()
            await service.start()
            times = psutil.Process(service.process.pid).cpu_times()
            seconds.append(times.user + times.system)
        factor = max(before, slowdown())

        with capsys.disabled():
            print(
                f"\nbyok serve, second start: {min(seconds):.2f} s of CPU, machine {factor:.1f} times slower"
            )
        assert min(seconds) <= START_SECONDS * factor
