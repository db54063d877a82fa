"""`byok token`: the tokens it prints, and the arguments it rejects with one line."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jwt
import pytest
from click.testing import CliRunner, Result

from app.auth.principal import ROLES
from app.cli import main

Token = Callable[..., Result]


@pytest.fixture
def token(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Token:
    """Run the command with a separate data directory."""
    monkeypatch.chdir(tmp_path)
    return lambda *arguments, **settings: CliRunner().invoke(
        main, ["token", *arguments], env={f"BYOK_{name}": value for name, value in settings.items()}
    )


def claims(result: Result) -> dict[str, Any]:
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = jwt.decode(result.stdout.strip(), options={"verify_signature": False})
    return found


class TestPrints:
    @pytest.mark.parametrize("role", ["billing-admin", "billing-viewer"])
    def test_the_scopes_of_the_role_for_one_organization(self, token: Token, role: str) -> None:
        found = claims(token("--role", role, "--organization", "org_acme"))

        assert (found["iss"], found["aud"], found["org"]) == ("byok-development", "byok", "org_acme")
        assert set(found["scope"].split()) == set(ROLES[role])

    def test_a_service_token_for_every_organization_unless_bound(self, token: Token) -> None:
        assert claims(token("--role", "service"))["org"] == "*"
        assert claims(token("--role", "service", "--organization", "org_acme"))["org"] == "org_acme"

    def test_additional_scopes_subject_and_lifetime(self, token: Token) -> None:
        found = claims(
            token("--role", "service", "--scope", "relay:messages", "--ttl", "90s", "--subject", "batch")
        )

        assert set(found["scope"].split()) == {*ROLES["service"], "relay:messages"}
        assert (found["sub"], found["exp"] - found["iat"]) == ("batch", 90)

    def test_the_configured_audience(self, token: Token) -> None:
        assert claims(token("--role", "service", AUTH__AUDIENCE="billing"))["aud"] == "billing"

    def test_tokens_signed_with_the_key_of_the_data_directory(self, token: Token) -> None:
        first, second = (token("--role", "service").stdout.strip() for _ in range(2))

        assert jwt.get_unverified_header(first)["kid"] == jwt.get_unverified_header(second)["kid"]


class TestRefuses:
    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            ((), "--role"),
            (("--role", "billing-admin"), "--organization is required for this role"),
            (("--role", "owner", "--organization", "org_acme"), "--role"),
            (("--role", "service", "--organization", "a b"), "1 to 64 letters, digits, _ or -"),
            (("--role", "service", "--organization", "x" * 65), "1 to 64 letters, digits, _ or -"),
            (("--role", "billing-admin", "--organization", "_operator"), "must not begin with _"),
            (("--role", "service", "--organization", "_services"), "must not begin with _"),
            (("--role", "service", "--ttl", "1"), "--ttl"),
            (("--role", "service", "--ttl", "-1h"), "--ttl"),
            (("--role", "service", "--scope", "everything"), "--scope"),
        ],
    )
    def test_invalid_arguments(self, token: Token, arguments: tuple[str, ...], words: str) -> None:
        result = token(*arguments)

        assert result.exit_code == 2
        assert words in result.stderr
        assert result.stdout == ""

    def test_with_an_external_issuer(self, token: Token) -> None:
        result = token(
            *("--role", "service"),
            AUTH__ISSUER="https://id.example.com",
            AUTH__JWKS_URL="https://id.example.com/jwks",
        )

        assert result.exit_code == 2
        assert result.stderr.startswith("Error: BYOK_AUTH__JWKS_URL: an external issuer is configured")
        assert result.stdout == ""

    def test_with_a_key_file_that_others_may_read(self, token: Token, tmp_path: Path) -> None:
        token("--role", "service")
        key = tmp_path / ".data" / "auth" / "signing-key.pem"
        key.chmod(0o644)

        result = token("--role", "service")

        assert result.exit_code == 2
        assert result.stderr.startswith("Error: BYOK_DATA_DIR: ")
        assert result.stdout == ""
