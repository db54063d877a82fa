"""API keys: which texts are accepted, and that only the hint of a key is shown."""

import copy
import pickle

import pytest

from app.core.errors import KeyRefused
from app.core.keys.api_key import ApiKey
from app.core.keys.pasted_key import MAX_LENGTH

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
    def test_refuses_text_that_cannot_be_a_key(self, text: str, code: str) -> None:
        with pytest.raises(KeyRefused) as refused:
            ApiKey.parse(text)

        assert refused.value.problem_code == code
        assert not text or text not in str(refused.value)

    @pytest.mark.parametrize("text", ["sk-or-v1-0123456789abcdef", "dapi123", "sk-ant-odd-but-theirs"])
    def test_accepts_any_shape_for_a_custom_endpoint(self, text: str) -> None:
        assert ApiKey.parse(text, is_custom_endpoint=True).reveal() == text

    @pytest.mark.parametrize("text", ["sk-ant-admin01-xxxxxxxx", "sk-ant-sid01-xxxxxxxx"])
    def test_refuses_other_anthropic_secrets_for_a_custom_endpoint_too(self, text: str) -> None:
        with pytest.raises(KeyRefused):
            ApiKey.parse(text, is_custom_endpoint=True)


class TestHint:
    def test_matches_the_format_of_the_providers_console(self) -> None:
        assert ApiKey(KEY).hint == "sk-ant-api03-R2D...igAA"

    def test_is_none_for_a_short_key(self) -> None:
        assert ApiKey("a" * 39).hint is None

    def test_shows_the_last_characters_of_another_providers_key(self) -> None:
        assert ApiKey("x" * 40 + "1234").hint == "...1234"


class TestMask:
    def test_hides_the_key_in_every_text_form(self) -> None:
        key = ApiKey(KEY)

        assert all("SECRET" not in text for text in (repr(key), str(key), f"{key}", f"{key:>10}", "%s" % key))  # noqa: UP031  # this form too

    def test_cannot_be_pickled_copied_hashed_or_changed(self) -> None:
        key = ApiKey(KEY)

        for forbidden in (pickle.dumps, copy.copy, copy.deepcopy, hash, vars):
            with pytest.raises(TypeError):
                forbidden(key)
        with pytest.raises(AttributeError):
            key._text = "other"

    def test_equals_only_the_same_key(self) -> None:
        assert ApiKey(KEY) == ApiKey(KEY)
        assert ApiKey(KEY) != ApiKey(KEY[:-1] + "B")
        assert ApiKey(KEY) != KEY
