"""Runs shell blocks like a reader in a terminal: one bash process that keeps its variables from block to block."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.support.documentation import shows
from tests.support.processes.service import until

TIMEOUT_SECONDS = 60.0

# A background process without job control ignores SIGINT, and its children inherit that; a shell on a terminal does not.
_WITH_CTRL_C = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execv(sys.argv[1], sys.argv[1:])
"""


class Terminal:
    """A bash process. A command that fails ends it, because the page expects every command to succeed."""

    def __init__(self, process: "subprocess.Popen[bytes]", directory: Path) -> None:
        self._process = process
        self._directory = directory
        self._blocks = 0
        self._begins_at = 0

    async def run(self, text: str, *, shown: str | None, is_server: bool) -> None:
        """Run a block. Wait until it ends, or, if it starts a server, until its output contains the shown text."""
        assert self._process.stdin is not None
        self._begins_at = len(self._written())
        self._blocks += 1
        script = self._directory / f"block-{self._blocks}.sh"
        script.write_text(text)
        end = f"[end of {script.name}]"
        self._process.stdin.write(f"source {script} </dev/null\necho '{end}'\n".encode())
        self._process.stdin.flush()

        def is_done() -> bool:
            assert self._process.poll() is None, f"a command failed:\n{text}\noutput:\n{self.output}"
            return shown is not None and shows(self.output, shown) if is_server else end in self.output

        with suppress(TimeoutError):
            async with asyncio.timeout(TIMEOUT_SECONDS):
                while not is_done():  # noqa: ASYNC110  # polls the output of a process, not a task
                    await asyncio.sleep(0.05)
        assert is_done(), (
            f"still running, or another output:\n{text}\nshown:\n{shown}\noutput:\n{self.output}"
        )
        assert shown is None or shows(self.output, shown), f"shown:\n{shown}\noutput:\n{self.output}"

    @property
    def output(self) -> str:
        """The output of the last block."""
        return self._written()[self._begins_at :]

    async def interrupt(self) -> None:
        """Press Ctrl-C, and wait until every process of the terminal has ended."""
        self.send(signal.SIGINT)
        assert self._process.stdin is not None
        self._process.stdin.close()
        await until(
            lambda: self._process.poll() is not None, "Ctrl-C ends the terminal", seconds=TIMEOUT_SECONDS
        )

    def send(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def _written(self) -> str:
        return (self._directory / "output").read_text(encoding="utf-8", errors="replace")


@contextmanager
def terminal(directory: Path, *, cwd: Path, environment: Mapping[str, str]) -> Iterator[Terminal]:
    """Open a terminal. Every process that is left in it is killed at the end.

    Args:
        directory: an empty directory for scripts and output.
        cwd: where the commands run.
        environment: the environment of the shell.
    """
    with (directory / "output").open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", _WITH_CTRL_C, shutil.which("bash") or "/bin/bash", "-euo", "pipefail"],
            cwd=cwd,
            env=dict(environment),
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    opened = Terminal(process, directory)
    try:
        yield opened
    finally:
        opened.send(signal.SIGKILL)
        assert process.stdin is not None
        with suppress(BrokenPipeError):
            process.stdin.close()
        process.wait()
