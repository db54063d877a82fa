"""Pasted texts: which are keys, and which code and message each of the others gets."""

import itertools
import re
import time

import pytest

from app.core.errors import KeyRefused
from app.core.keys.pasted_key import KEY_CHECKS, KEY_REFUSALS, MAX_CUSTOM_LENGTH, MAX_LENGTH, require_key

RANDOM = "R2DxxSECRETSECRETSECRETSECRETSECRETSECRETigAA"
KEY = f"sk-ant-api03-{RANDOM}"
GATEWAY_KEY = "sk-or-v1-0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
ADMIN, ACCESS, REFRESH, SESSION = (
    f"sk-ant-{kind}-{RANDOM}" for kind in ("admin01", "oat01", "ort01", "sid01")
)
TOKEN_900 = (
    f"eyJ{'hbGciOiJSUzI1NiJ9' * 10}.eyJ{'zdWIiOiJtZSJ9' * 40}.{'c2ln' * 60}"  # a JWT of a workload identity
)

# Refused with and without a custom endpoint, before any network call.
REFUSED = {
    # Secrets that are never provider keys, whatever is around them
    "": "key_empty",
    ADMIN: "admin_key",
    f'"{ADMIN}"': "admin_key",
    f"ANTHROPIC_ADMIN_KEY={ADMIN}": "admin_key",
    f"export ANTHROPIC_API_KEY='{ADMIN}'": "admin_key",
    f"{ADMIN}\n": "admin_key",
    f"Bearer {ADMIN}": "admin_key",
    f"https://example.com/?key={ADMIN}": "admin_key",
    f"{'x' * MAX_CUSTOM_LENGTH}{ADMIN}": "admin_key",
    f"gw:{ADMIN.upper()}": "admin_key",
    "".join(f"%{ord(character):02x}" for character in ADMIN): "admin_key",
    ADMIN.replace("admin", "%61dmin"): "admin_key",
    ADMIN.replace("sk-", "sk-\u200d"): "admin_key",
    f"{ADMIN}%\ud800%41": "admin_key",
    f"sk-ant-admin01-R2D...{RANDOM[-4:]}": "admin_key",
    ACCESS: "oauth_token",
    f"Bearer {ACCESS}": "oauth_token",
    f"CLAUDE_CODE_OAUTH_TOKEN={ACCESS}": "oauth_token",
    f'{{"accessToken":"{ACCESS}","refreshToken":"{REFRESH}"}}': "oauth_token",
    f"'{REFRESH}'": "oauth_token",
    f"sessionKey={SESSION}": "session_key",
    f"Cookie: sessionKey={SESSION}; lastActiveOrg=1": "session_key",
    f"sessionKey%3Dsk%2Dant%2Dsid02%2D{RANDOM}": "session_key",
    f"\u201csk\u2011ant\u2011sid01\u2011{RANDOM}\u201d": "session_key",
    f"x-api-key:{SESSION}": "session_key",
    # URLs
    "https://api.anthropic.com/v1/messages": "key_is_url",
    f"https://gw.example.com/{KEY}": "key_is_url",
    ' "http://127.0.0.1:8000"': "key_is_url",
    "www.example.com": "key_is_url",
    "api.anthropic.com": "key_is_url",
    "console.anthropic.com/settings/keys": "key_is_url",
    "postgresql://user:password@db/byok": "key_is_url",
    # Masks
    "sk-ant-api03-R2D...igAA": "key_is_masked",
    "...igAA": "key_is_masked",
    "sk-...abcd": "key_is_masked",
    "sk-ant-api03-\u2026igAA": "key_is_masked",
    "****": "key_is_masked",
    f"sk-ant-api03-{'*' * 90}AA": "key_is_masked",
    "\u2022" * 20: "key_is_masked",
    '"sk-...abcd"': "key_is_masked",
    "OPENAI_API_KEY=sk-...abcd": "key_is_masked",
    "ApiKey(***)": "key_is_masked",
    # Assignments
    f"ANTHROPIC_API_KEY={KEY}": "key_is_assignment",
    f'ANTHROPIC_API_KEY="{KEY}"': "key_is_assignment",
    f"ANTHROPIC_API_KEY = {KEY}": "key_is_assignment",
    f"export ANTHROPIC_API_KEY={KEY}": "key_is_assignment",
    f"  export OPENROUTER_API_KEY='{GATEWAY_KEY}'": "key_is_assignment",
    f"set ANTHROPIC_API_KEY={KEY}": "key_is_assignment",
    f"$env:ANTHROPIC_API_KEY = '{KEY}'": "key_is_assignment",
    f"--api-key={GATEWAY_KEY}": "key_is_assignment",
    f"const apiKey = '{KEY}';": "key_is_assignment",
    f"client = Anthropic(api_key='{KEY}')": "key_is_assignment",
    f"api_key := {KEY}": "key_is_assignment",
    f'"ANTHROPIC_API_KEY={KEY}"': "key_is_assignment",
    # Quotes
    f'"{KEY}"': "key_has_quotes",
    f"'{GATEWAY_KEY}'": "key_has_quotes",
    f"`{KEY}`": "key_has_quotes",
    f"\u201c{KEY}\u201d": "key_has_quotes",
    f"\u00ab{KEY}\u00bb": "key_has_quotes",
    f'{KEY}"': "key_has_quotes",
    f'"{KEY}",\n': "key_has_quotes",
    f'{{"api_key": "{KEY}"}}': "key_has_quotes",
    f'"api_key": "{GATEWAY_KEY}"': "key_has_quotes",
    f"curl -H 'x-api-key: {KEY}' api.anthropic.com": "key_has_quotes",
    # White space
    f"{KEY} ": "key_has_whitespace",
    f"\u00a0{KEY}": "key_has_whitespace",
    f"{KEY}\n": "key_has_whitespace",
    f"{KEY}\n{GATEWAY_KEY}": "key_has_whitespace",
    f"Bearer {KEY}": "key_has_whitespace",
    f"Authorization: Bearer {GATEWAY_KEY}": "key_has_whitespace",
    f"x-api-key: {KEY}": "key_has_whitespace",
    f"api_key: {KEY}": "key_has_whitespace",
    # Characters
    f"{KEY}\u2011": "key_malformed",
    f"\ufeff{KEY}": "key_malformed",
    f"{KEY}\x1f": "key_malformed",
    f"{KEY}\x7f": "key_malformed",
    f"{KEY}\ud800": "key_malformed",
    "gw-schl\u00fcssel": "key_malformed",
    "x" * (MAX_CUSTOM_LENGTH + 1): "key_too_long",
}
# Keys of other providers, which need a custom endpoint: the code without one.
OF_OTHER_PROVIDERS = {
    GATEWAY_KEY: "key_malformed",
    "dapi0123456789abcdef0123456789abcdef": "key_malformed",
    "gw-42-valid": "key_malformed",
    "sk-ant-odd-but-theirs": "key_malformed",
    "0123456789abcdef.AbCdEf": "key_malformed",
    "id:secret": "key_malformed",
    "ABSKQmVkcm9ja0FQSUtleS0xMjM0NTY3ODkw==": "key_malformed",
    "bedrock-api-key-YmVkcm9jay5hbWF6b25hd3MuY29tLw=": "key_malformed",
    "eyJhbGciOiJkaXIifQ..aXY.Y3Q.dGFn": "key_malformed",  # an encrypted JWT has an empty part
    "x" * (MAX_LENGTH + 1): "key_too_long",
    "x" * MAX_CUSTOM_LENGTH: "key_too_long",
    TOKEN_900: "key_too_long",
}


def refusal(text: str, *, is_custom_endpoint: bool) -> KeyRefused | None:
    try:
        require_key(text, is_custom_endpoint=is_custom_endpoint)
    except KeyRefused as refused:
        return refused
    return None


def code(text: str, *, is_custom_endpoint: bool) -> str | None:
    refused = refusal(text, is_custom_endpoint=is_custom_endpoint)
    return None if refused is None else refused.problem_code


class TestRefusal:
    @pytest.mark.parametrize("text", REFUSED, ids=range(len(REFUSED)))
    @pytest.mark.parametrize("is_custom_endpoint", [True, False])
    def test_has_its_code_at_every_endpoint(self, text: str, is_custom_endpoint: bool) -> None:
        expected = REFUSED[text]
        if not is_custom_endpoint and len(text) > MAX_CUSTOM_LENGTH and expected != "admin_key":
            expected = "key_too_long"

        assert code(text, is_custom_endpoint=is_custom_endpoint) == expected

    @pytest.mark.parametrize("text", OF_OTHER_PROVIDERS, ids=range(len(OF_OTHER_PROVIDERS)))
    def test_of_a_key_of_another_provider_only_at_the_default_endpoint(self, text: str) -> None:
        assert code(text, is_custom_endpoint=False) == OF_OTHER_PROVIDERS[text]
        assert code(text, is_custom_endpoint=True) is None

    @pytest.mark.parametrize(
        "text", [KEY, f"sk-ant-api04-{RANDOM}", f"sk-ant-api03-{'x' * (MAX_LENGTH - 13)}"]
    )
    @pytest.mark.parametrize("is_custom_endpoint", [True, False])
    def test_does_not_happen_to_a_claude_api_key(self, text: str, is_custom_endpoint: bool) -> None:
        assert code(text, is_custom_endpoint=is_custom_endpoint) is None

    @pytest.mark.parametrize(
        "text", [*REFUSED, *OF_OTHER_PROVIDERS], ids=range(len(REFUSED) + len(OF_OTHER_PROVIDERS))
    )
    def test_does_not_repeat_the_text(self, text: str) -> None:
        refused = refusal(text, is_custom_endpoint=False)

        assert refused is not None
        (error,) = refused.errors
        shown = f"{refused} {error}"
        assert not re.search("SECRET|0123456789|igAA", shown)

    def test_says_what_to_remove(self) -> None:
        words = {
            f"A_KEY={KEY}": "name, the equals sign and any quotes",
            f'"{KEY}"': "quotes",
            f"Bearer {KEY}": "spaces, line breaks and words such as Bearer",
            "https://gw.example.com": "`base_url`",
            "sk-...abcd": "Copy the whole key",
            TOKEN_900: "`base_url`",
        }

        for text, message in words.items():
            refused = refusal(text, is_custom_endpoint=False)
            assert refused is not None
            assert message in refused.errors[0].message

    def test_follows_the_order_of_the_checks(self) -> None:
        secrets = ["key_empty", "key_too_long", "admin_key", "oauth_token", "session_key"]
        no_keys = ["key_is_url", "key_is_masked"]
        wrapped = ["key_is_assignment", "key_has_quotes", "key_has_whitespace", "key_malformed"]
        order = [*secrets, *no_keys, *wrapped]
        # Every wrapper around every text that it does not change into another kind.
        texts = {ADMIN: 2, SESSION: 4, "sk-...abcd": 6, KEY: None}
        wrappers = {"A_KEY={}": 7, '"{}"': 8, " {}": 9, "{}\x7f": 10}

        assert list(KEY_REFUSALS) == order
        for (text, own), (wrapper, outer) in itertools.product(texts.items(), wrappers.items()):
            first = outer if own is None else min(own, outer)
            assert code(wrapper.format(text), is_custom_endpoint=True) == order[first]

    def test_is_quick_for_every_text_that_a_body_can_hold(self) -> None:
        for piece in ("sk-ant-", "%25", "sk%25", 'export A_B"', "a=", "A" * 63, " ", ".. ", "\u2011"):
            for size in (MAX_CUSTOM_LENGTH, 1024 * 1024):
                started = time.process_time()
                refusal(piece * (size // len(piece)), is_custom_endpoint=True)
                assert time.process_time() - started < 0.2


def test_each_check_has_a_constant_message_and_a_code() -> None:
    assert all(check.code and check.message.endswith(".") for check in KEY_CHECKS)
