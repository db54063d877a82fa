"""`make run` on a terminal: progress and a greeting for people, and a clean end after a signal."""

import os
import pty
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.processes.checkout import linked_checkout
from tests.support.processes.commands import environment
from tests.support.processes.service import free_port

SECONDS = 120.0


# Makes the terminal on standard input the controlling one, so that Ctrl-C reaches make and the service. A background
# process without job control ignores SIGINT, and its children inherit that; a shell on a terminal does not.
_IN_TERMINAL = """
import fcntl, os, signal, termios
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.setsid()
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execvp("make", ["make", "run"])
"""


class MakeRun:
    """`make run` in a pseudo-terminal."""

    def __init__(self, home: Path) -> None:
        settings = {"PORT": str(free_port()), "DATA_DIR": str(home / "data")}
        variables = {
            name: value
            for name, value in environment(settings).items()
            if not name.startswith(("MAKE", "MFLAGS"))
        }
        self._terminal, inner = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-c", _IN_TERMINAL],
            cwd=home,
            env=variables,
            stdin=inner,
            stdout=inner,
            stderr=inner,
        )
        os.close(inner)
        self.output = ""

    def wait_for(self, text: str) -> None:
        deadline = time.monotonic() + SECONDS
        while text not in self.output:
            assert time.monotonic() < deadline, self.output
            assert self._read(), self.output

    def press_ctrl_c(self) -> None:
        os.write(self._terminal, b"\x03")

    def wait_for_end(self) -> None:
        while self._read():
            pass
        self.process.wait(SECONDS)

    def _read(self) -> bool:
        """Read what is there; False after the end."""
        ready, _, _ = select.select([self._terminal], [], [], SECONDS)
        assert ready, self.output
        data = b""
        with suppress(OSError):  # every process has closed the terminal
            data = os.read(self._terminal, 65536)
        self.output += data.decode(errors="replace")
        return bool(data)

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        os.close(self._terminal)


@pytest.fixture
def make_run() -> Iterator[MakeRun]:
    if shutil.which("make") is None:
        pytest.skip("not installed: make")
    with linked_checkout() as home:
        run = MakeRun(home)
        try:
            yield run
        finally:
            run.kill()


class TestMakeRun:
    def test_prints_progress_and_a_greeting_and_no_json(self, make_run: MakeRun) -> None:
        make_run.wait_for("audit-events")

        start, _, _ = make_run.output.partition("Pharaoh BYOK")
        assert "Creating the embedded PostgreSQL" in start
        assert "Creating the tables" in start
        assert '{"' not in start
        assert "Running upgrade" not in start

        make_run.press_ctrl_c()
        make_run.wait_for_end()
        assert "***" not in make_run.output
        assert "Traceback" not in make_run.output
        assert "Aborted" not in make_run.output

    def test_ends_cleanly_when_make_gets_sigterm(self, make_run: MakeRun) -> None:
        make_run.wait_for("audit-events")

        make_run.process.send_signal(signal.SIGTERM)
        make_run.wait_for_end()

        assert "***" not in make_run.output
        assert "Traceback" not in make_run.output

    def test_ends_cleanly_during_the_start(self, make_run: MakeRun) -> None:
        make_run.wait_for("Creating the embedded PostgreSQL")

        make_run.press_ctrl_c()
        make_run.wait_for_end()

        assert "***" not in make_run.output
        assert "Traceback" not in make_run.output
