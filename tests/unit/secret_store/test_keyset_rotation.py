"""Another primary key, a dropped one, and the file replaced; none of it shows a key."""

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
    def test_makes_a_new_primary_and_keeps_the_old_key(self) -> None:
        keyset = Keyset.generate()

        rotated = keyset.with_new_primary()

        assert rotated.primary.secret != keyset.primary.secret
        assert rotated.root(keyset.primary_id) == keyset.primary
        assert rotated.fingerprint_key == keyset.fingerprint_key

    def test_drops_a_key_that_is_no_longer_primary(self) -> None:
        keyset = Keyset.generate()

        dropped = keyset.with_new_primary().without(keyset.primary_id)

        assert dropped.root(keyset.primary_id) is None
        assert list(dropped.roots) == [dropped.primary_id]

    def test_refuses_to_drop_the_primary(self) -> None:
        keyset = Keyset.generate()

        with pytest.raises(KeysetRefused, match="primary"):
            keyset.without(keyset.primary_id)

    def test_refuses_to_drop_what_is_not_there(self) -> None:
        with pytest.raises(KeysetRefused, match="Nothing was dropped"):
            Keyset.generate().without("nowhere")


class TestSave:
    def test_replaces_the_file_by_a_private_one(self, path: Path) -> None:
        rotated = Keyset.load_or_create(path).with_new_primary()
        before = path.stat().st_ino

        rotated.save(path)

        assert Keyset.load(path) == rotated
        assert path.stat().st_ino != before
        assert names_in(path.parent) == ["keyset.json"]

    def test_replaces_a_symbolic_link_and_spares_its_target(self, path: Path) -> None:
        target = path.with_name("target")
        target.write_text("somebody else's")
        path.symlink_to(target)

        Keyset.generate().save(path)

        assert target.read_text() == "somebody else's"
        assert not path.is_symlink()

    def test_refuses_a_place_it_cannot_write_and_leaves_nothing(self, path: Path) -> None:
        path.mkdir()

        with pytest.raises(KeysetRefused):
            Keyset.generate().save(path)

        assert names_in(path.parent) == ["keyset.json"]


class TestTextForms:
    def test_show_no_key(self) -> None:
        keyset = Keyset.generate()

        shown = f"{keyset!r} {keyset} {keyset.primary!r}"

        for secret in (keyset.primary.secret, keyset.fingerprint_key):
            assert repr(secret)[2:10] not in shown
            assert secret.hex() not in shown
            assert base64.b64encode(secret).decode() not in shown

    def test_cannot_be_pickled_or_copied(self) -> None:
        for copying in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(TypeError):
                copying(Keyset.generate())
