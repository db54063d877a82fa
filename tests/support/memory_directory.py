"""Temporary files in memory for a whole run.

To copy a PostgreSQL cluster takes a tenth of the time there, and the tests do it hundreds of times.
"""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import psutil

# A file system in memory, and the bytes that must be free there and in memory.
IN_MEMORY = Path("/dev/shm")  # noqa: S108  # the run creates a directory of its own there
ENOUGH_BYTES = 4 * 1024**3
_PREFIX = "byok-run-"


@contextmanager
def temporary_directory(
    parent: Path = IN_MEMORY, *, enough_bytes: int = ENOUGH_BYTES
) -> Iterator[Sequence[int]]:
    """Let all processes of the run create their temporary files in a directory in memory. TMPDIR has precedence.

    Yields descriptors for the processes of the run to inherit: the directory stays as long as one of them lives.
    """
    with ExitStack() as stack:
        descriptors: Sequence[int] = ()
        if parent.is_dir():
            with locked(parent, fcntl.LOCK_EX):
                remove_abandoned(parent)
                if "TMPDIR" not in os.environ and has_room(parent, enough_bytes):
                    descriptors = (stack.enter_context(_created(parent)),)
        yield descriptors


@contextmanager
def _created(parent: Path) -> Iterator[int]:
    """A directory that TMPDIR names, and the lock that keeps it from being removed."""
    directory = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
    try:
        directory.chmod(0o1777)  # like /tmp, because PostgreSQL may run as another user
        os.environ["TMPDIR"] = str(directory)
        with locked(directory, fcntl.LOCK_SH) as descriptor:
            yield descriptor
    finally:
        os.environ.pop("TMPDIR", None)
        shutil.rmtree(directory, ignore_errors=True)


def has_room(directory: Path, enough_bytes: int) -> bool:
    """Whether programs can run from the directory, and it and the memory have enough room."""
    try:
        found = os.statvfs(directory)
    except OSError:
        return False
    usable = not found.f_flag & (os.ST_NOEXEC | os.ST_RDONLY) and os.access(directory, os.W_OK)
    return usable and min(found.f_bavail * found.f_frsize, psutil.virtual_memory().available) >= enough_bytes


def remove_abandoned(parent: Path) -> None:
    """Remove the directories of runs that were killed. A run that goes on holds a lock."""
    for directory in parent.glob(f"{_PREFIX}*"):
        with suppress(OSError), locked(directory, fcntl.LOCK_EX | fcntl.LOCK_NB):
            shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def locked(directory: Path, operation: int) -> Iterator[int]:
    """Hold a lock, which the kernel releases once no process has the descriptor."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, operation)
        yield descriptor
    finally:
        os.close(descriptor)
