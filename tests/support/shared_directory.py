"""What the first process of a run creates, and the others use: files that none of them changes.

`python -m tests.run` creates the directory. A process that pytest starts by itself has its own.
"""

import atexit
import fcntl
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_VARIABLE = "BYOK_TEST_SHARED_DIRECTORY"
_PREFIX = "byok-shared-"

_lock = threading.Lock()


@contextmanager
def shared_directory() -> Iterator[None]:
    """Let all processes that start in the block share a directory, which is removed afterwards."""
    with tempfile.TemporaryDirectory(prefix=_PREFIX, ignore_cleanup_errors=True) as name:
        _open_to_postgresql(Path(name))
        os.environ[_VARIABLE] = name
        try:
            yield
        finally:
            del os.environ[_VARIABLE]


def create_once(name: str, create: Callable[[Path], None]) -> Path:
    """Return the directory with this name, in which `create` has run. Other processes wait for it."""
    directory = _directory() / name
    done = directory.with_suffix(".done")
    with directory.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            shutil.rmtree(directory, ignore_errors=True)  # what a process has left that failed
            directory.mkdir()
            _open_to_postgresql(directory)
            create(directory)
            done.touch()
    return directory


def _directory() -> Path:
    with _lock:
        if _VARIABLE not in os.environ:
            own = tempfile.mkdtemp(prefix=_PREFIX)
            _open_to_postgresql(Path(own))
            atexit.register(shutil.rmtree, own, ignore_errors=True)
            os.environ[_VARIABLE] = own
    return Path(os.environ[_VARIABLE])


def _open_to_postgresql(directory: Path) -> None:
    """If root starts PostgreSQL, it runs as another user, who must be able to traverse the directory."""
    directory.chmod(0o711)
