"""The main process of the embedded PostgreSQL (the postmaster): finds it, starts it and stops it.

A process is the postmaster of a data directory if its executable is `postgres` and it was started with that directory. The number in
`postmaster.pid` is only the first place to look: after a crash another process may have it. No other process gets a signal.
"""

import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

PORT = 5432  # only part of the socket's name; the server does not listen on TCP

_POLL_SECONDS = 0.02
_FAST_STOP_SECONDS = 20.0
_IMMEDIATE_STOP_SECONDS = 10.0
_ORPHANS_SECONDS = 15.0


class PostmasterFailed(Exception):
    """The server did not start, or did not stop. The message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PidFile:
    """What a server wrote into `postmaster.pid`."""

    pid: int
    socket_directory: str
    status: str

    @classmethod
    def read(cls, directory: Path) -> "PidFile | None":
        """The file of this data directory; None if it does not exist, or is empty, incomplete or damaged."""
        try:
            lines = (directory / "postmaster.pid").read_text(encoding="utf-8").splitlines()
            return cls(pid=int(lines[0]), socket_directory=lines[4].strip(), status=lines[7].strip())
        except (FileNotFoundError, UnicodeDecodeError, ValueError, IndexError):
            return None


@dataclass(frozen=True, slots=True)
class Postmaster:
    """A running server. psutil compares the process's creation time before each signal, so a recycled number gets none."""

    process: psutil.Process
    directory: Path

    @classmethod
    def find(cls, directory: Path) -> "Postmaster | None":
        """The server that runs on this data directory."""
        found = [process for process in _processes_to_look_at(directory) if is_postmaster(process, directory)]
        # A process that was just forked still looks like its parent, which is older.
        return cls(min(found, key=lambda process: process.create_time()), directory) if found else None

    def is_running(self) -> bool:
        return _is_alive(self.process)

    def pid_file(self) -> PidFile | None:
        """The file that this server wrote; None if it is not complete, or another process's."""
        found = PidFile.read(self.directory)
        return found if found is not None and found.pid == self.process.pid else None

    def status(self) -> str:
        """`ready`, `starting`, `stopping`, or an empty string while the server has not written its pid file."""
        found = self.pid_file()
        return "" if found is None else found.status

    def stop(self) -> None:
        """Disconnect all clients and shut down. If it does not end before the deadline, abort: the next start then recovers.

        Raises:
            PostmasterFailed
        """
        for number, seconds in (
            (signal.SIGINT, _FAST_STOP_SECONDS),
            (signal.SIGQUIT, _IMMEDIATE_STOP_SECONDS),
        ):
            with suppress(psutil.NoSuchProcess):
                self.process.send_signal(number)
            if wait_until(lambda: not self.is_running(), seconds):
                return
        reason = f"process {self.process.pid} did not stop"
        raise PostmasterFailed(reason)


def start_postmaster(
    command: list[str], directory: Path, log: Path, options: dict[str, Any], *, seconds: float
) -> Postmaster:
    """Start a server in the background and wait until it accepts connections.

    Raises:
        PostmasterFailed: it ended, or it is not ready before the deadline. Then it is stopped.
    """
    written = log.stat().st_size if log.exists() else 0
    # The shell ends at once, so that the server belongs to no process that may end before it.
    shell = ["/bin/sh", "-c", 'log=$1; shift; "$@" </dev/null >>"$log" 2>&1 & echo $!', "sh", str(log)]
    started = subprocess.run(  # noqa: S603  # a fixed program; the shell gets paths only as arguments
        [*shell, *command], check=True, capture_output=True, text=True, start_new_session=True, **options
    )
    with suppress(psutil.NoSuchProcess):
        postmaster = Postmaster(psutil.Process(int(started.stdout)), directory)
        if wait_until(lambda: postmaster.status() == "ready" or not postmaster.is_running(), seconds):
            if postmaster.is_running():
                return postmaster
        else:
            postmaster.stop()
            reason = f"it was not ready within {seconds:.0f} s"
            raise PostmasterFailed(reason)
    raise PostmasterFailed(_last_fatal_line(log, written) or "it ended at once")


def wait_for_orphans(directory: Path) -> None:
    """Wait until the processes of a killed server have ended. They notice its end by themselves.

    Raises:
        PostmasterFailed
    """
    if not wait_until(
        lambda: not any(_works_in(process, directory) for process in _postgres()), _ORPHANS_SECONDS
    ):
        raise PostmasterFailed("processes of an earlier server on this data directory are still running")


def is_postmaster(process: psutil.Process, directory: Path) -> bool:
    """Whether this process is a server on this data directory."""
    try:
        arguments = process.cmdline()
        if "-D" not in arguments[:-1] or not _is_alive(process) or not _is_postgres(process):
            return False
        return Path(arguments[arguments.index("-D") + 1]).resolve() == directory
    except (psutil.Error, OSError):
        return False


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    """Poll the condition. Returns whether it became true before the deadline."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(_POLL_SECONDS)
    return True


def _processes_to_look_at(directory: Path) -> Iterator[psutil.Process]:
    """The process that the pid file names. If it is not the server: all processes, because the file may be damaged."""
    found = PidFile.read(directory)
    if found is not None:
        with suppress(psutil.NoSuchProcess, ValueError, OverflowError):
            process = psutil.Process(found.pid)
            if is_postmaster(process, directory):
                yield process
                return
    yield from _postgres()


def _postgres() -> Iterator[psutil.Process]:
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if _is_postgres(process):
                yield process


def _is_postgres(process: psutil.Process) -> bool:
    if process.name() != "postgres":
        return False
    try:
        executable = process.exe()
    except psutil.AccessDenied:  # root in a container without the right to trace the server's account
        return True
    return Path(executable).name == "postgres"


def _works_in(process: psutil.Process, directory: Path) -> bool:
    """Whether the process works in this directory: PostgreSQL's processes change to their data directory."""
    try:
        return _is_alive(process) and Path(process.cwd()) == directory
    except psutil.Error:
        return False


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _last_fatal_line(log: Path, start: int) -> str:
    """The reason that PostgreSQL gave for its end, from the part of the log after `start`."""
    with suppress(OSError), log.open("rb") as lines:
        lines.seek(start)
        for line in reversed(lines.read().decode(errors="replace").splitlines()):
            if "FATAL:" in line or "PANIC:" in line:
                return line.partition("FATAL:")[2].strip() or line.partition("PANIC:")[2].strip()
    return ""
