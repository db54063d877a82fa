"""Key files: created once, replaced atomically, and read only if they are private to this user."""

import errno
import os
import threading
from pathlib import Path

import pytest

from app.core.private_file import (
    PrivateFileRefused,
    create_private_file,
    read_private_file,
    replace_private_file,
)

CANARY = b"canary-9f2c41d7a0"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys" / "key"


def mode_of(path: Path) -> int:
    return path.stat().st_mode & 0o777


def names_beside(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.parent.iterdir())


class TestCreate:
    def test_creates_a_private_file_in_private_directories(self, tmp_path: Path) -> None:
        path = tmp_path / "data" / "keys" / "key"

        created = create_private_file(path, CANARY)

        assert created
        assert path.read_bytes() == CANARY
        assert [mode_of(entry) for entry in (path, path.parent, path.parent.parent)] == [0o600, 0o700, 0o700]

    def test_leaves_no_temporary_file(self, path: Path) -> None:
        create_private_file(path, CANARY)
        create_private_file(path, b"second")

        assert names_beside(path) == ["key"]

    def test_never_overwrites(self, path: Path) -> None:
        create_private_file(path, CANARY)

        assert not create_private_file(path, b"second")
        assert path.read_bytes() == CANARY

    def test_treats_a_dangling_link_as_an_existing_file(self, path: Path, tmp_path: Path) -> None:
        path.parent.mkdir()
        path.symlink_to(tmp_path / "elsewhere")

        assert not create_private_file(path, CANARY)
        assert not (tmp_path / "elsewhere").exists()

    def test_succeeds_for_one_of_many_concurrent_calls(self, path: Path) -> None:
        start = threading.Barrier(8)
        outcomes: list[tuple[bytes, bool]] = []

        def create(content: bytes) -> None:
            start.wait()
            outcomes.append((content, create_private_file(path, content)))

        threads = [threading.Thread(target=create, args=(bytes([n]) * 4096,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert [content for content, created in outcomes if created] == [path.read_bytes()]
        assert names_beside(path) == ["key"]

    def test_explains_that_hard_links_are_required(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def no_links(*_: object, **__: object) -> None:
            raise OSError(errno.EPERM, "Operation not permitted")

        monkeypatch.setattr(os, "link", no_links)

        with pytest.raises(PrivateFileRefused, match="local file system with hard links"):
            create_private_file(path, CANARY)
        assert names_beside(path) == []

    def test_refuses_a_directory_that_is_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "keys").write_text("in the way")

        with pytest.raises(PrivateFileRefused, match="cannot be written"):
            create_private_file(tmp_path / "keys" / "key", CANARY)


class TestRead:
    def test_returns_the_content(self, path: Path) -> None:
        create_private_file(path, CANARY)

        assert read_private_file(path, max_bytes=len(CANARY)) == CANARY

    def test_raises_file_not_found_for_a_missing_file(self, path: Path) -> None:
        with pytest.raises(FileNotFoundError):
            read_private_file(path, max_bytes=100)

    @pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o610])
    def test_refuses_a_file_that_others_may_access(self, path: Path, mode: int) -> None:
        create_private_file(path, CANARY)
        path.chmod(mode)

        with pytest.raises(PrivateFileRefused, match="chmod 600"):
            read_private_file(path, max_bytes=100)

    def test_refuses_a_file_of_another_user(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        create_private_file(path, CANARY)
        another_user = os.geteuid() + 1
        monkeypatch.setattr(os, "geteuid", lambda: another_user)

        with pytest.raises(PrivateFileRefused, match="belongs to another user"):
            read_private_file(path, max_bytes=100)

    def test_names_the_owner_as_the_fault_if_this_user_may_not_open_it(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Another user has created it and its directory: root, with a command that it ran first. Its keys must stay."""

        def denied(*_arguments: object) -> int:
            raise PermissionError

        monkeypatch.setattr(os, "open", denied)

        with pytest.raises(
            PrivateFileRefused, match="change the owner of the file and of its directory"
        ) as refusal:
            read_private_file(path, max_bytes=100)
        assert "replace" not in str(refusal.value)

    def test_refuses_a_link(self, path: Path, tmp_path: Path) -> None:
        create_private_file(path, CANARY)
        (tmp_path / "link").symlink_to(path)

        with pytest.raises(PrivateFileRefused, match="is a link"):
            read_private_file(tmp_path / "link", max_bytes=100)

    def test_refuses_a_directory(self, tmp_path: Path) -> None:
        with pytest.raises(PrivateFileRefused, match="regular file"):
            read_private_file(tmp_path, max_bytes=100)

    def test_does_not_block_on_a_pipe(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe", 0o600)

        with pytest.raises(PrivateFileRefused, match="not a regular file"):
            read_private_file(tmp_path / "pipe", max_bytes=100)

    def test_refuses_a_file_larger_than_max_bytes(self, path: Path) -> None:
        create_private_file(path, CANARY)

        with pytest.raises(PrivateFileRefused, match="too large") as refused:
            read_private_file(path, max_bytes=len(CANARY) - 1)
        assert CANARY.decode() not in repr(refused.value)
        assert refused.value.path == path


class TestReplace:
    def test_writes_the_new_content(self, path: Path) -> None:
        create_private_file(path, CANARY)

        replace_private_file(path, b"second")

        assert path.read_bytes() == b"second"
        assert (mode_of(path), names_beside(path)) == (0o600, ["key"])

    def test_replaces_a_link_and_not_its_target(self, path: Path, tmp_path: Path) -> None:
        path.parent.mkdir()
        (tmp_path / "elsewhere").write_text("untouched")
        path.symlink_to(tmp_path / "elsewhere")

        replace_private_file(path, CANARY)

        assert not path.is_symlink()
        assert (tmp_path / "elsewhere").read_text() == "untouched"

    def test_keeps_the_old_content_when_the_disk_is_full(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        create_private_file(path, CANARY)

        def full(_: int) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)

        with pytest.raises(PrivateFileRefused, match="with free space"):
            replace_private_file(path, b"second")
        assert path.read_bytes() == CANARY
        assert names_beside(path) == ["key"]

    def test_refuses_to_replace_a_directory(self, path: Path) -> None:
        (path / "inner").mkdir(parents=True)

        with pytest.raises(PrivateFileRefused, match="cannot be replaced"):
            replace_private_file(path, CANARY)
        assert names_beside(path) == ["key"]
