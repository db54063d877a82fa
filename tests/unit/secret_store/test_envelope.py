"""The envelope opens in its own place, whole, under its own root key, and never otherwise."""

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.secret_store.embedded.envelope import place, rewrap, seal, unseal
from app.secret_store.embedded.keyset import Keyset
from app.secret_store.encoding import length_prefixed
from app.secret_store.port import SecretCorrupt

SECRET = b"sk-ant-api03-" + 80 * b"x"
KEYSET = Keyset.generate()
CREDENTIAL = UUID("01990000-0000-7000-8000-000000000001")
WHERE = place("org_a", CREDENTIAL, 1)
BLOB = seal(SECRET, KEYSET, WHERE)
PAYLOAD_AT = 97


def flipped(blob: bytes, position: int) -> bytes:
    return blob[:position] + bytes([blob[position] ^ 0x40]) + blob[position + 1 :]


class TestSeal:
    @given(st.binary(max_size=600))
    def test_opens_in_its_place(self, secret: bytes) -> None:
        assert unseal(seal(secret, KEYSET, WHERE), KEYSET, WHERE) == secret

    def test_costs_125_bytes_and_shows_nothing_of_the_secret(self) -> None:
        assert len(BLOB) == len(SECRET) + 125
        assert SECRET[:8] not in BLOB

    def test_of_the_same_secret_shares_only_format_and_root_key_id(self) -> None:
        again = seal(SECRET, KEYSET, WHERE)

        assert again[:5] == BLOB[:5]
        assert all(again[at : at + 8] != BLOB[at : at + 8] for at in range(5, len(BLOB) - 8))


class TestUnsealRefuses:
    @pytest.mark.parametrize("position", range(len(BLOB)))
    def test_every_byte_changed(self, position: int) -> None:
        with pytest.raises(SecretCorrupt):
            unseal(flipped(BLOB, position), KEYSET, WHERE)

    @pytest.mark.parametrize("left", range(len(BLOB)))
    def test_every_truncation(self, left: int) -> None:
        with pytest.raises(SecretCorrupt):
            unseal(BLOB[:left], KEYSET, WHERE)

    @pytest.mark.parametrize("cut", [1, 97, 109, len(BLOB) - 1])
    def test_a_missing_start(self, cut: int) -> None:
        with pytest.raises(SecretCorrupt):
            unseal(BLOB[cut:], KEYSET, WHERE)

    def test_bytes_added_at_the_end(self) -> None:
        with pytest.raises(SecretCorrupt):
            unseal(BLOB + b"\0", KEYSET, WHERE)

    @pytest.mark.parametrize(
        "elsewhere",
        [
            place("org_b", CREDENTIAL, 1),
            place("org_a", UUID(int=7), 1),
            place("org_a", CREDENTIAL, 2),
            b"",
        ],
    )
    def test_another_row(self, elsewhere: bytes) -> None:
        with pytest.raises(SecretCorrupt):
            unseal(BLOB, KEYSET, elsewhere)

    def test_the_payload_of_another_blob_of_the_same_row(self) -> None:
        other = seal(SECRET, KEYSET, WHERE)

        with pytest.raises(SecretCorrupt):
            unseal(BLOB[:PAYLOAD_AT] + other[PAYLOAD_AT:], KEYSET, WHERE)

    def test_a_dropped_root_key(self) -> None:
        shredded = KEYSET.with_new_primary().without(KEYSET.primary_id)

        with pytest.raises(SecretCorrupt):
            unseal(BLOB, shredded, WHERE)

    def test_the_id_of_another_root_key(self) -> None:
        rotated = KEYSET.with_new_primary()

        with pytest.raises(SecretCorrupt):
            unseal(BLOB[:1] + bytes.fromhex(rotated.primary_id) + BLOB[5:], rotated, WHERE)

    def test_without_saying_what_was_in_it(self) -> None:
        with pytest.raises(SecretCorrupt) as refusal:
            unseal(flipped(BLOB, len(BLOB) - 1), KEYSET, WHERE)

        assert refusal.value.__cause__ is None
        assert str(refusal.value) == str(SecretCorrupt())


class TestRewrap:
    def test_opens_under_the_new_root_key_alone(self) -> None:
        rotated = KEYSET.with_new_primary()

        blob = rewrap(BLOB, rotated, WHERE)

        assert unseal(blob, rotated.without(KEYSET.primary_id), WHERE) == SECRET
        with pytest.raises(SecretCorrupt):
            unseal(blob, KEYSET, WHERE)

    def test_changes_the_whole_header_and_no_byte_of_the_payload(self) -> None:
        blob = rewrap(BLOB, KEYSET.with_new_primary(), WHERE)

        assert blob[PAYLOAD_AT:] == BLOB[PAYLOAD_AT:]
        assert all(blob[at : at + 8] != BLOB[at : at + 8] for at in range(1, PAYLOAD_AT - 8))

    def test_does_not_decrypt_the_payload(self) -> None:
        # A payload that nothing can open goes through unnoticed.
        broken = BLOB[:PAYLOAD_AT] + b"never a ciphertext"

        blob = rewrap(broken, KEYSET.with_new_primary(), WHERE)

        assert blob[PAYLOAD_AT:] == b"never a ciphertext"

    @pytest.mark.parametrize("position", range(PAYLOAD_AT))
    def test_refuses_every_byte_of_the_header_changed(self, position: int) -> None:
        with pytest.raises(SecretCorrupt):
            rewrap(flipped(BLOB, position), KEYSET, WHERE)

    def test_refuses_another_row(self) -> None:
        with pytest.raises(SecretCorrupt):
            rewrap(BLOB, KEYSET, place("org_b", CREDENTIAL, 1))


class TestLengthPrefixed:
    @given(st.lists(st.binary(max_size=5), max_size=4), st.lists(st.binary(max_size=5), max_size=4))
    def test_tells_any_two_lists_apart(self, one: list[bytes], other: list[bytes]) -> None:
        assert (length_prefixed(*one) == length_prefixed(*other)) == (one == other)
