"""Secrets in memory: no text form, copy or comparison shows them."""

import copy
import pickle

import pytest

from app.core.keys.api_key import ApiKey
from app.core.keys.masked import Masked
from app.core.keys.signing_secret import SigningSecret

TEXT = "whsec_not-a-secret-of-anyone"
CLASSES = (ApiKey, SigningSecret)


@pytest.mark.parametrize("kind", CLASSES)
class TestSecrets:
    def test_show_only_their_type(self, kind: type[Masked]) -> None:
        secret = kind(TEXT)

        for shown in (repr(secret), str(secret), f"{secret}", f"{secret:>40}", f"{secret!s}", ascii(secret)):
            assert shown == f"{kind.__name__}(***)"

    def test_are_equal_by_text_and_type(self, kind: type[Masked]) -> None:
        (other,) = set(CLASSES) - {kind}

        assert kind(TEXT) == kind(TEXT)
        assert kind(TEXT) != kind(TEXT + "x")
        assert kind(TEXT) != other(TEXT)
        assert kind(TEXT) != TEXT

    def test_are_not_copied_pickled_hashed_or_changed(self, kind: type[Masked]) -> None:
        secret = kind(TEXT)

        for attempt in (copy.copy, copy.deepcopy, pickle.dumps, hash):
            with pytest.raises(TypeError) as raised:
                attempt(secret)
            assert TEXT not in str(raised.value)
        with pytest.raises(AttributeError):
            setattr(secret, "_text", "another")  # noqa: B010  # mypy knows that it cannot be set
        assert not hasattr(secret, "__dict__")
