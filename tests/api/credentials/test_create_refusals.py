"""Tests of rejected creations: each has its own code, does not repeat the input and sends no probe."""

import json
from typing import Any

import pytest

from tests.support.provider.fake_anthropic import FakeAnthropic, make_key
from tests.support.tenant import Tenant

KEY = make_key()
SHORT_KEY = f"sk-ant-api03-{'x' * 40}"  # shorter than the longest label
SUFFIX = "x" * 60

REJECTED_KEYS = {
    "empty": ("", "key_empty"),
    "too long": (f"sk-ant-api03-{'x' * 500}", "key_too_long"),
    "space before": (f" {KEY}", "key_has_whitespace"),
    "space after": (f"{KEY} ", "key_has_whitespace"),
    "newline after": (f"{KEY}\n", "key_has_whitespace"),
    "tab inside": (f"{KEY[:30]}\t{KEY[30:]}", "key_has_whitespace"),
    "only spaces": ("   ", "key_has_whitespace"),
    "admin key": (f"sk-ant-admin01-{SUFFIX}", "admin_key"),
    "access token": (f"sk-ant-oat01-{SUFFIX}", "oauth_token"),
    "refresh token": (f"sk-ant-ort01-{SUFFIX}", "oauth_token"),
    "session cookie": (f"sk-ant-sid01-{SUFFIX}", "session_key"),
    "another provider's": (f"sk-proj-{SUFFIX}", "key_malformed"),
    "one digit": (f"sk-ant-api3-{SUFFIX}", "key_malformed"),
    "cut short": ("sk-ant-api03-xxxxxxxxxxxxxxxxxxx", "key_malformed"),
    "word before": (f"key:{KEY}", "key_malformed"),
    "quote after": (f'{KEY}"', "key_has_quotes"),
    "quotes": (f'"{KEY}"', "key_has_quotes"),
    "JSON": (f'{{"api_key": "{KEY}"}}', "key_has_quotes"),
    "assignment": (f"ANTHROPIC_API_KEY={KEY}", "key_is_assignment"),
    "exported": (f"export ANTHROPIC_API_KEY='{KEY}'", "key_is_assignment"),
    "our own hint": (f"{KEY[:16]}...{KEY[-4:]}", "key_is_masked"),
    "asterisks": ("****", "key_is_masked"),
    "URL": ("https://api.anthropic.com/v1/messages", "key_is_url"),
    "quoted admin key": (f'"sk-ant-admin01-{SUFFIX}"', "admin_key"),
    "assigned access token": (f"ANTHROPIC_AUTH_TOKEN=sk-ant-oat01-{SUFFIX}", "oauth_token"),
    "cookie": (f"sessionKey=sk-ant-sid01-{SUFFIX}", "session_key"),
    "shouted session cookie": (f"SESSIONKEY=SK-ANT-SID01-{SUFFIX}", "session_key"),
    "bearer": (f"Bearer {KEY}", "key_has_whitespace"),
    "null character": (f"{KEY}\0", "key_malformed"),
    "escape character": (f"{KEY}\x1b", "key_malformed"),
    "delete character": (f"{KEY}\x7f", "key_malformed"),
    "non-breaking hyphen": (KEY.replace("-", "\u2011", 1), "key_malformed"),
    "letter of another script": (KEY.replace("a", "\u0430", 1), "key_malformed"),
    "lone surrogate": (f"{KEY}\ud800", "key_malformed"),
}

REJECTED_LABELS: dict[str, Any] = {
    "empty": "",
    "blank": "   ",
    "too long": "x" * 81,
    "newline": "Acme\nproduction",
    "null character": "Acme\0",
    "escape character": "\x1b[31mAcme",
    "direction override": "Acme\u202eproduction",
    "only joiners": "\u200d\u200c",
    "soft hyphen": "Stra\u00adße",
    "zero width": "Acme\u200b",
    "lone surrogate": "Acme\ud800",
    "number": 7,
    "null": None,
}


async def _create(tenant: Tenant, **fields: Any) -> Any:
    """Send ASCII JSON, which can encode every code point."""
    body = {"label": "Acme production", "api_key": make_key()} | fields
    return await tenant.post(
        tenant.credentials, content=json.dumps(body), headers={"Content-Type": "application/json"}
    )


@pytest.mark.usefixtures("uncalled_provider")
class TestKey:
    @pytest.mark.parametrize("case", REJECTED_KEYS)
    async def test_rejects_each_kind_of_invalid_key_with_its_code(self, tenant: Tenant, case: str) -> None:
        key, code = REJECTED_KEYS[case]

        response = await _create(tenant, api_key=key)

        assert response.status_code == 422
        problem = response.json()
        assert problem["code"] == code
        assert [(error["field"], error["code"]) for error in problem["errors"]] == [("api_key", code)]
        assert (await tenant.get(tenant.credentials)).json()["data"] == []

    @pytest.mark.parametrize("value", [None, 7, True, [KEY], {"key": KEY}])
    async def test_rejects_a_value_that_is_not_a_string(self, tenant: Tenant, value: Any) -> None:
        response = await _create(tenant, api_key=value)

        assert response.status_code == 422
        assert response.json()["errors"][0]["field"] == "api_key"
        assert KEY not in response.text

    async def test_short_key_inside_the_label_is_rejected_as_an_invalid_key(self, tenant: Tenant) -> None:
        for key, code in {" ": "key_has_whitespace", "A": "key_malformed"}.items():
            response = await _create(tenant, label="Acme production", api_key=key)

            assert response.json()["code"] == code

    async def test_rejects_a_missing_key(self, tenant: Tenant) -> None:
        response = await tenant.post(tenant.credentials, json={"label": "Acme"})

        assert response.json()["code"] == "validation_failed"
        assert [(e["field"], e["code"]) for e in response.json()["errors"]] == [("api_key", "required")]


class TestLabel:
    @pytest.mark.parametrize("case", REJECTED_LABELS)
    @pytest.mark.usefixtures("uncalled_provider")
    async def test_rejects_unreadable_labels(self, tenant: Tenant, case: str) -> None:
        response = await _create(tenant, label=REJECTED_LABELS[case])

        assert (response.status_code, response.json()["code"]) == (422, "validation_failed")
        assert [error["field"] for error in response.json()["errors"]] == ["label"]

    @pytest.mark.parametrize(
        "label",
        [
            "x",
            "x" * 80,
            "é" * 80,
            "Family 👨\u200d👩\u200d👧",
            "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",
            "Acme 🔑 <b>&amp;</b>",
            "'; DROP TABLE x; --",
        ],
    )
    async def test_keeps_labels_of_1_to_80_characters_unchanged(self, tenant: Tenant, label: str) -> None:
        credential = (await _create(tenant, label=label)).json()

        assert credential["label"] == label


@pytest.mark.usefixtures("uncalled_provider")
class TestKeyInTheWrongField:
    @pytest.mark.parametrize("field", ["label", "workspace_id", "probe_model"])
    async def test_is_rejected(self, tenant: Tenant, field: str) -> None:
        response = await _create(tenant, **{field: SHORT_KEY})

        assert response.status_code == 422
        assert response.json()["code"] == "looks_like_key"
        assert [(e["field"], e["code"]) for e in response.json()["errors"]] == [(field, "looks_like_key")]

    async def test_rejects_an_admin_key_in_the_label(self, tenant: Tenant) -> None:
        response = await _create(tenant, label=f"was sk-ant-admin01-{'x' * 20}")

        assert response.json()["code"] == "looks_like_key"

    async def test_rejects_a_key_in_the_base_url(self, tenant: Tenant) -> None:
        response = await _create(tenant, base_url=f"https://example.com/{make_key()}")

        assert (response.status_code, response.json()["errors"][0]["field"]) == (422, "base_url")


@pytest.mark.usefixtures("uncalled_provider")
class TestOtherFields:
    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("provider", "openai"),
            ("auth_style", "basic"),
            ("workspace_id", "has space"),
            ("workspace_id", "line\r\nInjected: yes"),
            ("workspace_id", "wrkspc_01\n"),
            ("probe_model", "x" * 201),
        ],
    )
    async def test_rejects_invalid_values_and_names_the_field(
        self, tenant: Tenant, field: str, value: str
    ) -> None:
        response = await _create(tenant, **{field: value})

        assert (response.status_code, response.json()["code"]) == (422, "validation_failed")
        assert [error["field"] for error in response.json()["errors"]] == [field]

    @pytest.mark.parametrize("name", ["apiKey", "key", "state", "organization_id", "key_hint", "__proto__"])
    async def test_rejects_unknown_fields(self, tenant: Tenant, name: str) -> None:
        response = await _create(tenant, **{name: "x"})

        assert (response.status_code, response.json()["code"]) == (422, "unknown_field")


class TestRetryAfterRejection:
    async def test_corrected_key_is_accepted(self, tenant: Tenant, fake_anthropic: FakeAnthropic) -> None:
        key = make_key()
        await _create(tenant, api_key=f"{key} ")

        response = await _create(tenant, api_key=key)

        assert response.status_code == 201
        assert len(fake_anthropic.requests_of(key)) == 1
