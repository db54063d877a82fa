"""The repository as after `git clone` and `make install`, for tests that run `make`."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.documentation import ROOT
from tests.support.processes.commands import private_directory


@contextmanager
def linked_checkout() -> Iterator[Path]:
    """The repository's files and an installed .venv, but no data."""
    with private_directory() as home:
        for entry in ROOT.iterdir():
            if not entry.name.startswith("."):
                (home / entry.name).symlink_to(entry)
        (home / ".venv").mkdir()
        for entry in Path(sys.prefix).iterdir():
            if not entry.name.endswith("-installed"):
                (home / ".venv" / entry.name).symlink_to(entry)
        for kind in ("runtime", "dev"):  # newer than the lock files, so that make installs no packages
            (home / ".venv" / f".{kind}-installed").touch()
        yield home
