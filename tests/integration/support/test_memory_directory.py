import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.support.memory_directory import temporary_directory

_RUN_UNTIL_KILLED = """
import os, pathlib, subprocess, sys
from tests.support.memory_directory import temporary_directory
with temporary_directory(pathlib.Path(sys.argv[1]), enough_bytes=0) as descriptors:
    if "with a child" in sys.argv:
        child = subprocess.Popen([sys.executable, "-c", "input()"], pass_fds=descriptors)
    print(os.environ["TMPDIR"], flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def without_tmpdir(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TMPDIR", raising=False)


def run_in(parent: Path, *options: str) -> tuple[subprocess.Popen[str], Path]:
    process = subprocess.Popen(
        [sys.executable, "-c", _RUN_UNTIL_KILLED, str(parent), *options],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


class TestTemporaryDirectory:
    def test_exists_during_the_run(self, tmp_path: Path) -> None:
        with temporary_directory(tmp_path, enough_bytes=0):
            (directory,) = tmp_path.iterdir()
            assert os.environ["TMPDIR"] == str(directory)
            (directory / "left").write_text("by a test")

        assert list(tmp_path.iterdir()) == []
        assert "TMPDIR" not in os.environ

    def test_of_a_killed_run_is_removed_by_the_next_one(self, tmp_path: Path) -> None:
        killed, directory = run_in(tmp_path)
        with temporary_directory(tmp_path, enough_bytes=0):
            assert directory.is_dir()
            assert len(list(tmp_path.iterdir())) == 2
        killed.send_signal(signal.SIGKILL)
        killed.communicate()
        assert directory.is_dir()

        with temporary_directory(tmp_path, enough_bytes=0):
            assert not directory.exists()

    def test_of_a_killed_run_is_removed_even_if_memory_is_short(self, tmp_path: Path) -> None:
        killed, directory = run_in(tmp_path)
        killed.kill()
        killed.communicate()

        with temporary_directory(tmp_path, enough_bytes=2**80):
            assert not directory.exists()

    def test_stays_while_a_process_of_a_killed_run_lives(self, tmp_path: Path) -> None:
        killed, directory = run_in(tmp_path, "with a child")
        (child,) = psutil.Process(killed.pid).children()
        killed.kill()
        killed.wait()
        with temporary_directory(tmp_path, enough_bytes=0):
            assert directory.is_dir()
        killed.communicate()  # ends the input of the child
        psutil.wait_procs([child])

        with temporary_directory(tmp_path, enough_bytes=0):
            assert not directory.exists()

    def test_is_not_created_if_tmpdir_is_set(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TMPDIR", str(tmp_path / "chosen"))

        with temporary_directory(tmp_path, enough_bytes=0):
            assert os.environ["TMPDIR"] == str(tmp_path / "chosen")

        assert list(tmp_path.iterdir()) == []

    def test_is_not_created_if_memory_is_short(self, tmp_path: Path) -> None:
        with temporary_directory(tmp_path, enough_bytes=2**80):
            assert "TMPDIR" not in os.environ

    def test_is_not_created_if_there_is_no_such_file_system(self, tmp_path: Path) -> None:
        with temporary_directory(tmp_path / "missing", enough_bytes=0):
            assert "TMPDIR" not in os.environ
