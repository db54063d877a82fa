import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.shared_directory import create_once, shared_directory

# Prints the directory, and what is in it.
_USER = """
import os
from tests.support.shared_directory import create_once

def create(directory):
    assert not list(directory.iterdir())
    (directory / "creator").write_text(str(os.getpid()))

found = create_once("thing", create)
print(found, (found / "creator").read_text(), os.getpid())
"""


@pytest.fixture(autouse=True)
def outside_of_a_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("BYOK_TEST_SHARED_DIRECTORY", raising=False)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)


def use(_number: int) -> list[str]:
    done = subprocess.run([sys.executable, "-c", _USER], capture_output=True, text=True, check=True)
    return done.stdout.split()


class TestSharedDirectory:
    def test_one_process_creates_what_all_use(self) -> None:
        with shared_directory(), ThreadPoolExecutor(4) as threads:
            found = list(threads.map(use, range(4)))

        assert len({(directory, creator) for directory, creator, _ in found}) == 1
        assert len({process for _, _, process in found}) == 4

    def test_is_removed_after_the_run(self, tmp_path: Path) -> None:
        with shared_directory():
            use(0)
            assert len(list(tmp_path.iterdir())) == 1

        assert list(tmp_path.iterdir()) == []
        assert "BYOK_TEST_SHARED_DIRECTORY" not in os.environ

    def test_process_outside_of_a_run_has_its_own(self, tmp_path: Path) -> None:
        first, second = use(0), use(1)

        assert first[0] != second[0]
        assert list(tmp_path.iterdir()) == []

    def test_creation_that_failed_is_repeated_from_the_start(self) -> None:
        def fail(directory: Path) -> None:
            (directory / "half").touch()
            raise OSError

        with shared_directory():
            with pytest.raises(OSError):  # noqa: PT011  # it has no message
                create_once("thing", fail)
            directory, creator, process = use(0)

        assert creator == process
        assert not (Path(directory) / "half").exists()
