"""`byok page`: a link with a code that the page exchanges for a token."""

from collections.abc import Callable
from pathlib import Path

import jwt
import pytest
from click.testing import CliRunner, Result

from app.auth.signing_keys import EmbeddedIssuer
from app.cli import main
from app.page.sign_in import SignIn

Page = Callable[..., Result]


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Page:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BYOK_DATA_DIR", str(tmp_path))
    return lambda *arguments, **settings: CliRunner().invoke(
        main, ["page", *arguments], env={f"BYOK_{name}": value for name, value in settings.items()}
    )


class TestPrints:
    def test_a_link_whose_code_signs_in(self, page: Page, tmp_path: Path) -> None:
        printed = page("--role", "billing-viewer", "--organization", "org_beta", "--ttl", "30m", PORT="8123")

        address, _, code = printed.stdout.strip().partition("#code=")
        issuer = EmbeddedIssuer.load_or_create(tmp_path)
        token = SignIn(issuer, tmp_path).redeem(code)
        claims = jwt.decode(token, issuer.public_key, algorithms=["EdDSA"], audience=issuer.audience)
        assert address == "http://127.0.0.1:8123/billing"
        assert (claims["org"], claims["exp"] - claims["iat"]) == ("org_beta", 1800)

    def test_the_code_only_behind_the_hash_which_browsers_do_not_send(self, page: Page) -> None:
        assert page().stdout.count("#code=") == 1
        assert "?" not in page().stdout


class TestRejects:
    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (("--organization", "_operator"), "reserved"),
            (("--organization", "a b"), "1 to 64 letters"),
            (("--ttl", "soon"), "--ttl"),
            (("--role", "service"), "service"),
        ],
    )
    def test_invalid_arguments(self, page: Page, arguments: tuple[str, ...], words: str) -> None:
        result = page(*arguments)

        assert result.exit_code == 2
        assert words in result.stderr

    def test_an_external_issuer(self, page: Page) -> None:
        result = page(AUTH__ISSUER="https://id.example.com", AUTH__JWKS_URL="https://id.example.com/jwks")

        assert result.exit_code == 2
        assert "an external issuer is configured" in result.stderr

    def test_a_page_that_is_off(self, page: Page) -> None:
        result = page(PAGE__ENABLED="false")

        assert result.exit_code == 2
        assert "BYOK_PAGE__ENABLED" in result.stderr
        assert "#code=" not in result.stdout
