"""No text that is stored in clear text and shown to others accepts what looks like a key, in any spelling."""

from typing import Any

import pytest

from tests.support.provider.fake_anthropic import make_key
from tests.support.requests.usage_events import event
from tests.support.tenant import MakeToken, Tenant

PART = make_key()[:40]
SPELLINGS = {
    "as issued": PART,
    "capitalized": PART.capitalize(),
    "upper case": PART.upper(),
    "percent-encoded": PART.replace("-", "%2D"),
    "percent-encoded in lower case": PART.replace("-", "%2d"),
    "percent-encoded twice": PART.replace("-", "%252d"),
}
# Only text that people read may contain these characters; a URL refuses them by its own rules.
INVISIBLE_SPELLINGS = {
    "joined": PART.replace("sk-", "sk-\u200d"),
    "full-width": "".join(chr(ord(character) + 0xFEE0) for character in PART),
    "with other hyphens": PART.replace("-", "\u2011"),
}
ALL_SPELLINGS = SPELLINGS | INVISIBLE_SPELLINGS
LIMIT: dict[str, Any] = {"name": "Budget", "amount": {"amount": "1", "currency": "USD"}, "period": "month"}


def assert_refused(response: Any, field: str) -> None:
    assert response.status_code == 422, response.text
    (error,) = response.json()["errors"]
    assert (error["field"], error["code"]) == (field, "looks_like_key")
    assert PART[20:].lower() not in response.text.lower()


@pytest.mark.parametrize("spelling", ALL_SPELLINGS)
class TestKeyInText:
    @pytest.mark.usefixtures("uncalled_provider")
    async def test_is_refused_in_labels(self, tenant: Tenant, spelling: str) -> None:
        assert_refused(await tenant.create(label=ALL_SPELLINGS[spelling]), "label")

    @pytest.mark.parametrize("field", ["name", "scope.feature", "scope.endpoint_id", "scope.model"])
    async def test_is_refused_in_spend_limits(self, tenant: Tenant, field: str, spelling: str) -> None:
        name, _, inner = field.partition(".")
        text = ALL_SPELLINGS[spelling]

        response = await tenant.post(
            f"{tenant.path}/spend-limits", json=LIMIT | {name: {inner: text} if inner else text}
        )

        assert_refused(response, field)

    async def test_is_refused_in_dimensions_of_events(
        self, tenant: Tenant, make_token: MakeToken, spelling: str
    ) -> None:
        headers = {"Authorization": f"Bearer {make_token('service')}"}
        batch = {"events": [event(feature=ALL_SPELLINGS[spelling]), event(feature="assistant, 100 %")]}

        response = await tenant.http.post(f"{tenant.path}/usage-events", json=batch, headers=headers)

        result = response.json()
        assert (response.status_code, result["accepted"]) == (200, 1)
        assert [(one["status"], one["code"]) for one in result["results"]] == [("rejected", "looks_like_key")]


@pytest.mark.parametrize("spelling", SPELLINGS)
async def test_key_in_a_webhook_url_is_refused(tenant: Tenant, spelling: str) -> None:
    url = f"https://hooks.example.com/{SPELLINGS[spelling]}"

    assert_refused(await tenant.post(f"{tenant.path}/webhook-endpoints", json={"url": url}), "url")


@pytest.mark.parametrize("spelling", ["as issued", "upper case", "capitalized"])
async def test_key_as_an_organization_is_not_found(
    tenant: Tenant, make_token: MakeToken, spelling: str
) -> None:
    headers = {"Authorization": f"Bearer {make_token('service')}"}
    path = f"/v1/organizations/{SPELLINGS[spelling]}/usage-events"

    response = await tenant.http.post(path, json={"events": [event()]}, headers=headers)

    assert (response.status_code, response.json()["code"]) == (404, "not_found")
    assert PART[20:].lower() not in response.text.lower()
