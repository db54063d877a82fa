"""The keyset file: created once, replaced atomically, and refused if other users can access it."""

import base64
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app.secret_store.embedded.keyset import Keyset, KeysetMissing, KeysetRefused

AS_ROOT = os.geteuid() == 0
SECOND_START = """
import sys
from pathlib import Path
from app.secret_store.embedded.keyset import Keyset
print("ready", flush=True)
sys.stdin.readline()
print(Keyset.load_or_create(Path(sys.argv[1])).primary_kek_id)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keyset.json"


def names_in(directory: Path) -> list[str]:
    return sorted(entry.name for entry in directory.iterdir())


class TestLoadOrCreate:
    def test_creates_a_private_file_in_a_private_directory(self, tmp_path: Path) -> None:
        path = tmp_path / "data" / "keyset.json"

        Keyset.load_or_create(path)

        assert path.stat().st_mode & 0o777 == 0o600
        assert path.parent.stat().st_mode & 0o777 == 0o700
        assert names_in(path.parent) == ["keyset.json"]

    def test_reads_the_same_keys_afterwards(self, path: Path) -> None:
        first = Keyset.load_or_create(path)
        text = path.read_bytes()

        assert Keyset.load_or_create(path) == first == Keyset.load(path)
        assert path.read_bytes() == text

    def test_generates_different_keys_each_time(self, tmp_path: Path) -> None:
        one, other = (Keyset.load_or_create(tmp_path / name) for name in ("one", "other"))

        assert one.primary_kek.secret != other.primary_kek.secret
        assert one.fingerprint_key not in {other.fingerprint_key, one.primary_kek.secret}

    def test_gives_concurrent_processes_the_same_keyset(self, path: Path) -> None:
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", SECOND_START, str(path)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for _ in range(3)
        ]
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"

        for process in processes:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        outputs = {process.communicate()[0] for process in processes}

        assert outputs == {f"{Keyset.load(path).primary_kek_id}\n"}
        assert names_in(path.parent) == ["keyset.json"]

    def test_does_not_overwrite_a_damaged_file(self, path: Path) -> None:
        path.write_bytes(b"{")
        path.chmod(0o600)

        with pytest.raises(KeysetRefused):
            Keyset.load_or_create(path)

        assert path.read_bytes() == b"{"

    def test_refuses_an_unwritable_directory(self, tmp_path: Path) -> None:
        (tmp_path / "data").write_text("a file where a directory should be")

        with pytest.raises(KeysetRefused):
            Keyset.load_or_create(tmp_path / "data" / "keyset.json")


class TestLoadRefuses:
    def test_a_missing_file(self, path: Path) -> None:
        with pytest.raises(KeysetMissing):
            Keyset.load(path)

    @pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o644, 0o660, 0o666, 0o777])
    def test_a_mode_that_others_can_use(self, path: Path, mode: int) -> None:
        Keyset.load_or_create(path)
        path.chmod(mode)

        with pytest.raises(KeysetRefused, match="chmod 600"):
            Keyset.load(path)

    def test_a_symbolic_link_to_a_valid_file(self, path: Path) -> None:
        Keyset.load_or_create(path)
        link = path.with_name("link.json")
        link.symlink_to(path)

        with pytest.raises(KeysetRefused):
            Keyset.load_or_create(link)

    def test_a_dangling_symbolic_link_without_creating_its_target(self, path: Path) -> None:
        target = path.with_name("elsewhere")
        path.symlink_to(target)

        with pytest.raises(KeysetRefused):
            Keyset.load_or_create(path)

        assert not target.exists()

    @pytest.mark.skipif(not AS_ROOT, reason="only root can give a file away")
    def test_another_users_file(self, path: Path) -> None:
        Keyset.load_or_create(path)
        os.chown(path, 12345, -1)

        with pytest.raises(KeysetRefused, match="chown"):
            Keyset.load(path)

    @pytest.mark.parametrize("create", [os.mkfifo, os.mkdir], ids=["pipe", "directory"])
    def test_a_pipe_or_directory(self, path: Path, create: Callable[[Path, int], None]) -> None:
        create(path, 0o600)

        with pytest.raises(KeysetRefused):
            Keyset.load(path)

    @pytest.mark.parametrize("kept", [0, 1, 40, 200])
    def test_a_truncated_file(self, path: Path, kept: int) -> None:
        Keyset.load_or_create(path)
        os.truncate(path, kept)

        with pytest.raises(KeysetRefused):
            Keyset.load(path)

    @pytest.mark.parametrize(
        "change",
        [
            {"version": 2},
            {"version": None},
            {"primary": "00000000"},
            {"primary": None},
            {"primary": []},
            {"roots": {}},
            {"roots": []},
            {"fingerprint": base64.b64encode(b"short").decode()},
            {"fingerprint": "?" * 44},
            {"fingerprint": None},
            {"primary": "x", "roots": {"x": base64.b64encode(bytes(32)).decode()}},
        ],
    )
    def test_a_changed_document(self, path: Path, change: dict[str, Any]) -> None:
        Keyset.load_or_create(path)
        path.write_text(json.dumps(json.loads(path.read_bytes()) | change))

        with pytest.raises(KeysetRefused):
            Keyset.load(path)

    @pytest.mark.parametrize("text", [b"[]", b"null", b"\xff\xfe", b"[" * 200_000])
    def test_a_file_that_is_not_a_json_object(self, path: Path, text: bytes) -> None:
        path.write_bytes(text)
        path.chmod(0o600)

        with pytest.raises(KeysetRefused):
            Keyset.load(path)

    def test_without_quoting_the_file(self, path: Path) -> None:
        Keyset.load_or_create(path)
        path.write_bytes(path.read_bytes()[:-3])

        with pytest.raises(KeysetRefused) as refusal:
            Keyset.load(path)

        assert refusal.value.__cause__ is None
        assert refusal.value.__context__ is None
