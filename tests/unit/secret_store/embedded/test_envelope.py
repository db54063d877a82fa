"""An envelope decrypts only unchanged, with its own associated data and its own KEK."""

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.secret_store.embedded.envelope import associated_data_for, decrypt, encrypt, rewrap
from app.secret_store.embedded.keyset import Keyset
from app.secret_store.encoding import length_prefixed
from app.secret_store.port import SecretCorrupt

SECRET = b"sk-ant-api03-" + 80 * b"x"
KEYSET = Keyset.generate()
CREDENTIAL = UUID("01990000-0000-7000-8000-000000000001")
ASSOCIATED_DATA = associated_data_for("org_a", CREDENTIAL, 1)
BLOB = encrypt(SECRET, KEYSET, ASSOCIATED_DATA)
PAYLOAD_AT = 97


def flipped(blob: bytes, position: int) -> bytes:
    return blob[:position] + bytes([blob[position] ^ 0x40]) + blob[position + 1 :]


class TestEncrypt:
    @given(st.binary(max_size=600))
    def test_decrypts_with_the_same_associated_data(self, secret: bytes) -> None:
        assert decrypt(encrypt(secret, KEYSET, ASSOCIATED_DATA), KEYSET, ASSOCIATED_DATA) == secret

    def test_adds_125_bytes_and_hides_the_secret(self) -> None:
        assert len(BLOB) == len(SECRET) + 125
        assert SECRET[:8] not in BLOB

    def test_repeated_shares_only_format_and_kek_id(self) -> None:
        again = encrypt(SECRET, KEYSET, ASSOCIATED_DATA)

        assert again[:5] == BLOB[:5]
        assert all(again[at : at + 8] != BLOB[at : at + 8] for at in range(5, len(BLOB) - 8))


def decrypts(blob: bytes) -> bool:
    """Whether a blob is decrypted, and not refused as corrupt."""
    try:
        decrypt(blob, KEYSET, ASSOCIATED_DATA)
    except SecretCorrupt:
        return False
    return True


class TestDecryptRefuses:
    def test_nothing_that_is_unchanged(self) -> None:
        assert decrypts(BLOB)

    def test_any_changed_byte(self) -> None:
        assert [at for at in range(len(BLOB)) if decrypts(flipped(BLOB, at))] == []

    def test_any_truncation(self) -> None:
        assert [length for length in range(len(BLOB)) if decrypts(BLOB[:length])] == []

    @pytest.mark.parametrize("start", [1, 97, 109, len(BLOB) - 1])
    def test_a_missing_start(self, start: int) -> None:
        with pytest.raises(SecretCorrupt):
            decrypt(BLOB[start:], KEYSET, ASSOCIATED_DATA)

    def test_appended_bytes(self) -> None:
        with pytest.raises(SecretCorrupt):
            decrypt(BLOB + b"\0", KEYSET, ASSOCIATED_DATA)

    @pytest.mark.parametrize(
        "other_row",
        [
            associated_data_for("org_b", CREDENTIAL, 1),
            associated_data_for("org_a", UUID(int=7), 1),
            associated_data_for("org_a", CREDENTIAL, 2),
            b"",
        ],
    )
    def test_the_associated_data_of_another_row(self, other_row: bytes) -> None:
        with pytest.raises(SecretCorrupt):
            decrypt(BLOB, KEYSET, other_row)

    def test_the_payload_of_another_blob_of_the_same_row(self) -> None:
        other = encrypt(SECRET, KEYSET, ASSOCIATED_DATA)

        with pytest.raises(SecretCorrupt):
            decrypt(BLOB[:PAYLOAD_AT] + other[PAYLOAD_AT:], KEYSET, ASSOCIATED_DATA)

    def test_a_removed_kek(self) -> None:
        without_old_kek = KEYSET.with_new_primary_kek().without_kek(KEYSET.primary_kek_id)

        with pytest.raises(SecretCorrupt):
            decrypt(BLOB, without_old_kek, ASSOCIATED_DATA)

    def test_the_id_of_another_kek(self) -> None:
        rotated = KEYSET.with_new_primary_kek()

        with pytest.raises(SecretCorrupt):
            decrypt(BLOB[:1] + bytes.fromhex(rotated.primary_kek_id) + BLOB[5:], rotated, ASSOCIATED_DATA)

    def test_without_a_cause_that_could_quote_the_blob(self) -> None:
        with pytest.raises(SecretCorrupt) as refusal:
            decrypt(flipped(BLOB, len(BLOB) - 1), KEYSET, ASSOCIATED_DATA)

        assert refusal.value.__cause__ is None
        assert str(refusal.value) == str(SecretCorrupt())


class TestRewrap:
    def test_decrypts_only_under_the_new_kek(self) -> None:
        rotated = KEYSET.with_new_primary_kek()

        blob = rewrap(BLOB, rotated, ASSOCIATED_DATA)

        assert decrypt(blob, rotated.without_kek(KEYSET.primary_kek_id), ASSOCIATED_DATA) == SECRET
        with pytest.raises(SecretCorrupt):
            decrypt(blob, KEYSET, ASSOCIATED_DATA)

    def test_changes_the_whole_header_and_keeps_the_payload(self) -> None:
        blob = rewrap(BLOB, KEYSET.with_new_primary_kek(), ASSOCIATED_DATA)

        assert blob[PAYLOAD_AT:] == BLOB[PAYLOAD_AT:]
        assert all(blob[at : at + 8] != BLOB[at : at + 8] for at in range(1, PAYLOAD_AT - 8))

    def test_does_not_decrypt_the_payload(self) -> None:
        # An invalid payload is copied without an error.
        broken = BLOB[:PAYLOAD_AT] + b"never a ciphertext"

        blob = rewrap(broken, KEYSET.with_new_primary_kek(), ASSOCIATED_DATA)

        assert blob[PAYLOAD_AT:] == b"never a ciphertext"

    def test_refuses_any_changed_header_byte(self) -> None:
        for position in range(PAYLOAD_AT):
            with pytest.raises(SecretCorrupt):
                rewrap(flipped(BLOB, position), KEYSET, ASSOCIATED_DATA)

    def test_refuses_the_associated_data_of_another_row(self) -> None:
        with pytest.raises(SecretCorrupt):
            rewrap(BLOB, KEYSET, associated_data_for("org_b", CREDENTIAL, 1))


class TestLengthPrefixed:
    @given(st.lists(st.binary(max_size=5), max_size=4), st.lists(st.binary(max_size=5), max_size=4))
    def test_differs_for_any_two_lists(self, one: list[bytes], other: list[bytes]) -> None:
        assert (length_prefixed(*one) == length_prefixed(*other)) == (one == other)
