"""What can be a key, what of it may be shown, and that nothing else gets out."""

import copy
import pickle

import pytest

from app.core.api_key import MAX_LENGTH, ApiKey
from app.core.errors import KeyRefused

KEY = "sk-ant-api03-R2DxxSECRETSECRETSECRETSECRETSECRETigAA"


class TestParse:
    @pytest.mark.parametrize(
        ("text", "code"),
        [
            ("", "key_empty"),
            ("a" * (MAX_LENGTH + 1), "key_too_long"),
            (f"{KEY} ", "key_has_whitespace"),
            (f"{KEY}\n", "key_has_whitespace"),
            (f"\u00a0{KEY}", "key_has_whitespace"),
            ("sk-ant-admin01-xxxxxxxxxxxxxxxxxxxxxxxx", "admin_key"),
            ("sk-ant-oat01-xxxxxxxxxxxxxxxxxxxxxxxx", "oauth_token"),
            ("sk-ant-ort01-xxxxxxxxxxxxxxxxxxxxxxxx", "oauth_token"),
            ("sk-ant-sid02-xxxxxxxxxxxxxxxxxxxxxxxx", "session_key"),
            ("SK-ANT-ADMIN01-xxxxxxxxxxxxxxxxxxxxxxxx", "admin_key"),
            (f"{KEY}\u2011", "key_malformed"),
            (f"{KEY}\x1f", "key_malformed"),
            (f"{KEY}\x7f", "key_malformed"),
            ("sk-ant-api03-short", "key_malformed"),
            ("sk-or-v1-0123456789abcdef0123456789abcdef", "key_malformed"),
        ],
    )
    def test_refuses_what_cannot_be_a_key(self, text: str, code: str) -> None:
        with pytest.raises(KeyRefused) as refused:
            ApiKey.parse(text)

        assert refused.value.problem_code == code
        assert not text or text not in str(refused.value)

    @pytest.mark.parametrize("text", ["sk-or-v1-0123456789abcdef", "dapi123", "sk-ant-odd-but-theirs"])
    def test_takes_any_shape_for_a_custom_destination(self, text: str) -> None:
        assert ApiKey.parse(text, custom_destination=True).reveal() == text

    @pytest.mark.parametrize("text", ["sk-ant-admin01-xxxxxxxx", "sk-ant-sid01-xxxxxxxx"])
    def test_refuses_log_ins_for_a_custom_destination_too(self, text: str) -> None:
        with pytest.raises(KeyRefused):
            ApiKey.parse(text, custom_destination=True)


class TestHint:
    def test_has_the_shape_of_the_providers_own(self) -> None:
        assert ApiKey(KEY).hint == "sk-ant-api03-R2D...igAA"

    def test_is_none_for_a_short_key(self) -> None:
        assert ApiKey("a" * 39).hint is None

    def test_of_another_providers_key_is_its_end(self) -> None:
        assert ApiKey("x" * 40 + "1234").hint == "...1234"


class TestMask:
    def test_no_text_form_shows_the_key(self) -> None:
        key = ApiKey(KEY)

        assert all("SECRET" not in text for text in (repr(key), str(key), f"{key}", f"{key:>10}", "%s" % key))  # noqa: UP031  # this form too

    def test_cannot_be_pickled_copied_hashed_or_changed(self) -> None:
        key = ApiKey(KEY)

        for forbidden in (pickle.dumps, copy.copy, copy.deepcopy, hash, vars):
            with pytest.raises(TypeError):
                forbidden(key)
        with pytest.raises(AttributeError):
            key._text = "other"

    def test_equals_the_same_key_alone(self) -> None:
        assert ApiKey(KEY) == ApiKey(KEY)
        assert ApiKey(KEY) != ApiKey(KEY[:-1] + "B")
        assert ApiKey(KEY) != KEY
