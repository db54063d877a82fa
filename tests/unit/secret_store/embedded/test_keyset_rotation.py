"""Rotation of KEKs in a keyset, and replacement of its file, without showing a key."""

import base64
import copy
import pickle
from pathlib import Path

import pytest

from app.secret_store.embedded.keyset import Keyset, KeysetRefused


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keyset.json"


def names_in(directory: Path) -> list[str]:
    return sorted(entry.name for entry in directory.iterdir())


class TestRotation:
    def test_adds_a_new_primary_kek_and_keeps_the_old_one(self) -> None:
        keyset = Keyset.generate()

        rotated = keyset.with_new_primary_kek()

        assert rotated.primary_kek.secret != keyset.primary_kek.secret
        assert rotated.kek(keyset.primary_kek_id) == keyset.primary_kek
        assert rotated.fingerprint_key == keyset.fingerprint_key

    def test_removes_a_kek_that_is_not_primary(self) -> None:
        keyset = Keyset.generate()

        remaining = keyset.with_new_primary_kek().without_kek(keyset.primary_kek_id)

        assert remaining.kek(keyset.primary_kek_id) is None
        assert list(remaining.keks) == [remaining.primary_kek_id]

    def test_refuses_to_remove_the_primary_kek(self) -> None:
        keyset = Keyset.generate()

        with pytest.raises(KeysetRefused, match="primary"):
            keyset.without_kek(keyset.primary_kek_id)

    def test_refuses_to_remove_an_unknown_kek(self) -> None:
        with pytest.raises(KeysetRefused, match="Nothing was changed"):
            Keyset.generate().without_kek("unknown")

    def test_refuses_to_make_an_unknown_kek_primary(self) -> None:
        with pytest.raises(KeysetRefused, match="Nothing was changed"):
            Keyset.generate().with_primary_kek("unknown")


class TestSave:
    def test_replaces_the_file_with_a_private_one(self, path: Path) -> None:
        rotated = Keyset.load_or_create(path).with_new_primary_kek()
        before = path.stat().st_ino

        rotated.save(path)

        assert Keyset.load(path) == rotated
        assert path.stat().st_ino != before
        assert names_in(path.parent) == ["keyset.json"]

    def test_replaces_a_symbolic_link_and_keeps_its_target(self, path: Path) -> None:
        target = path.with_name("target")
        target.write_text("another file")
        path.symlink_to(target)

        Keyset.generate().save(path)

        assert target.read_text() == "another file"
        assert not path.is_symlink()

    def test_refuses_an_unwritable_path_and_leaves_no_file(self, path: Path) -> None:
        path.mkdir()

        with pytest.raises(KeysetRefused):
            Keyset.generate().save(path)

        assert names_in(path.parent) == ["keyset.json"]


class TestMasking:
    def test_text_forms_hide_the_keys(self) -> None:
        keyset = Keyset.generate()

        shown = f"{keyset!r} {keyset} {keyset.primary_kek!r}"

        for secret in (keyset.primary_kek.secret, keyset.fingerprint_key):
            assert repr(secret)[2:10] not in shown
            assert secret.hex() not in shown
            assert base64.b64encode(secret).decode() not in shown

    def test_cannot_be_pickled_or_copied(self) -> None:
        for copy_keyset in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(TypeError):
                copy_keyset(Keyset.generate())
