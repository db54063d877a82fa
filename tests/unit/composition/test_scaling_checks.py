"""Which values of `lc_messages` have English texts, by which the service recognizes some errors of Citus."""

import pytest

from app.composition.scaling_checks import is_english


class TestIsEnglish:
    @pytest.mark.parametrize("locale", ["C", "C.UTF-8", "POSIX", "en_US.UTF-8", "en_GB"])
    def test_english(self, locale: str) -> None:
        assert is_english(locale)

    @pytest.mark.parametrize("locale", ["", "de_DE.UTF-8", "ca_ES", "Chinese_China.936", "eng"])
    def test_another_language_or_the_environments(self, locale: str) -> None:
        assert not is_english(locale)
