"""What cannot be saved: each refusal has a code of its own, repeats nothing, and asks nobody."""

import json
from typing import Any

import pytest

from tests.conftest import Tenant
from tests.fake_anthropic import FakeAnthropic, make_key

KEY = make_key()
SHORT_KEY = f"sk-ant-api03-{'x' * 40}"  # shorter than the longest label
TAIL = "x" * 60

KEY_REFUSALS = {
    "empty": ("", "key_empty"),
    "too long": (f"sk-ant-api03-{'x' * 500}", "key_too_long"),
    "space before": (f" {KEY}", "key_has_whitespace"),
    "space after": (f"{KEY} ", "key_has_whitespace"),
    "newline after": (f"{KEY}\n", "key_has_whitespace"),
    "tab inside": (f"{KEY[:30]}\t{KEY[30:]}", "key_has_whitespace"),
    "only spaces": ("   ", "key_has_whitespace"),
    "admin key": (f"sk-ant-admin01-{TAIL}", "admin_key"),
    "access token": (f"sk-ant-oat01-{TAIL}", "oauth_token"),
    "refresh token": (f"sk-ant-ort01-{TAIL}", "oauth_token"),
    "session cookie": (f"sk-ant-sid01-{TAIL}", "session_key"),
    "another provider's": (f"sk-proj-{TAIL}", "key_malformed"),
    "one digit": (f"sk-ant-api3-{TAIL}", "key_malformed"),
    "cut short": ("sk-ant-api03-xxxxxxxxxxxxxxxxxxx", "key_malformed"),
    "a word before": (f"key:{KEY}", "key_malformed"),
    "a quote after": (f'{KEY}"', "key_malformed"),
    "null character": (f"{KEY}\0", "key_malformed"),
    "escape character": (f"{KEY}\x1b", "key_malformed"),
    "delete character": (f"{KEY}\x7f", "key_malformed"),
    "non-breaking hyphen": (KEY.replace("-", "\u2011", 1), "key_malformed"),
    "letter of another script": (KEY.replace("a", "\u0430", 1), "key_malformed"),
    "lone surrogate": (f"{KEY}\ud800", "key_malformed"),
}

LABEL_REFUSALS: dict[str, Any] = {
    "empty": "",
    "blank": "   ",
    "too long": "x" * 81,
    "newline": "Acme\nproduction",
    "null character": "Acme\0",
    "escape character": "\x1b[31mAcme",
    "direction override": "Acme\u202eproduction",
    "joiners alone": "\u200d\u200c",
    "soft hyphen": "Stra\u00adße",
    "zero width": "Acme\u200b",
    "lone surrogate": "Acme\ud800",
    "no text": 7,
    "null": None,
}


async def _create(tenant: Tenant, **fields: Any) -> Any:
    """As ASCII JSON, which can carry every code point."""
    body = {"label": "Acme production", "api_key": make_key()} | fields
    return await tenant.post(
        tenant.credentials, content=json.dumps(body), headers={"Content-Type": "application/json"}
    )


@pytest.mark.usefixtures("unasked_provider")
class TestKey:
    @pytest.mark.parametrize("case", KEY_REFUSALS)
    async def test_that_cannot_be_one_is_refused_by_its_own_code(self, tenant: Tenant, case: str) -> None:
        key, code = KEY_REFUSALS[case]

        response = await _create(tenant, api_key=key)

        assert response.status_code == 422
        problem = response.json()
        assert problem["code"] == code
        assert [(error["field"], error["code"]) for error in problem["errors"]] == [("api_key", code)]
        assert (await tenant.get(tenant.credentials)).json()["data"] == []

    @pytest.mark.parametrize("value", [None, 7, True, [KEY], {"key": KEY}])
    async def test_that_is_no_text_is_refused(self, tenant: Tenant, value: Any) -> None:
        response = await _create(tenant, api_key=value)

        assert response.status_code == 422
        assert response.json()["errors"][0]["field"] == "api_key"
        assert KEY not in response.text

    async def test_that_a_label_holds_by_chance_is_refused_as_what_it_is(self, tenant: Tenant) -> None:
        for key, code in {" ": "key_has_whitespace", "A": "key_malformed"}.items():
            response = await _create(tenant, label="Acme production", api_key=key)

            assert response.json()["code"] == code

    async def test_that_is_missing_is_refused(self, tenant: Tenant) -> None:
        response = await tenant.post(tenant.credentials, json={"label": "Acme"})

        assert response.json()["code"] == "validation_failed"
        assert [(e["field"], e["code"]) for e in response.json()["errors"]] == [("api_key", "required")]


class TestLabel:
    @pytest.mark.parametrize("case", LABEL_REFUSALS)
    @pytest.mark.usefixtures("unasked_provider")
    async def test_that_nobody_could_read_is_refused(self, tenant: Tenant, case: str) -> None:
        response = await _create(tenant, label=LABEL_REFUSALS[case])

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
    async def test_of_one_to_eighty_characters_is_kept_as_it_is(self, tenant: Tenant, label: str) -> None:
        credential = (await _create(tenant, label=label)).json()

        assert credential["label"] == label


@pytest.mark.usefixtures("unasked_provider")
class TestKeyInTheWrongField:
    @pytest.mark.parametrize("field", ["label", "workspace_id", "probe_model"])
    async def test_is_refused_before_it_is_shown_to_others(self, tenant: Tenant, field: str) -> None:
        response = await _create(tenant, **{field: SHORT_KEY})

        assert response.status_code == 422
        assert response.json()["code"] == "looks_like_key"
        assert [(e["field"], e["code"]) for e in response.json()["errors"]] == [(field, "looks_like_key")]

    async def test_admin_key_in_the_label_is_refused_too(self, tenant: Tenant) -> None:
        response = await _create(tenant, label=f"was sk-ant-admin01-{'x' * 20}")

        assert response.json()["code"] == "looks_like_key"

    async def test_key_in_the_base_url_is_refused(self, tenant: Tenant) -> None:
        response = await _create(tenant, base_url=f"https://example.com/{make_key()}")

        assert (response.status_code, response.json()["errors"][0]["field"]) == (422, "base_url")


@pytest.mark.usefixtures("unasked_provider")
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
    async def test_value_out_of_bounds_is_refused_by_the_name_of_its_field(
        self, tenant: Tenant, field: str, value: str
    ) -> None:
        response = await _create(tenant, **{field: value})

        assert (response.status_code, response.json()["code"]) == (422, "validation_failed")
        assert [error["field"] for error in response.json()["errors"]] == [field]

    @pytest.mark.parametrize("name", ["apiKey", "key", "state", "organization_id", "key_hint", "__proto__"])
    async def test_unknown_field_is_refused(self, tenant: Tenant, name: str) -> None:
        response = await _create(tenant, **{name: "x"})

        assert (response.status_code, response.json()["code"]) == (422, "unknown_field")


class TestNothingIsLeftBehind:
    async def test_after_a_refusal_the_right_key_is_accepted(
        self, tenant: Tenant, fake_anthropic: FakeAnthropic
    ) -> None:
        key = make_key()
        await _create(tenant, api_key=f"{key} ")

        response = await _create(tenant, api_key=key)

        assert response.status_code == 201
        assert len(fake_anthropic.requests_of(key)) == 1
