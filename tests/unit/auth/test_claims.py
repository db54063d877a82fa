"""The claims of organization and scopes, in the forms that identity providers give them."""

from typing import Any

import pytest

from app.auth.claims import ClaimInvalid, ClaimNames

ENTRA = ClaimNames(
    accepts_lists=True, organization="byok_org", scopes=("scp", "roles"), service_scope="byok:service"
)
OKTA = ClaimNames(accepts_lists=True, organization="org", scopes=("scp",))
AUTH0 = ClaimNames(accepts_lists=True, organization="https://byok.example.com/org", scopes=("permissions",))
KEYCLOAK = ClaimNames(accepts_lists=True, organization="organization", scopes=("resource_access.byok.roles",))

READ = frozenset({"credentials:read", "usage:read"})

CASES: dict[str, tuple[ClaimNames, dict[str, Any], tuple[str, frozenset[str]]]] = {
    "Entra user": (
        ENTRA,
        {"byok_org": "org_acme", "scp": "credentials:read usage:read"},
        ("org_acme", READ),
    ),
    "Entra service": (
        ENTRA,
        {"roles": ["byok:service", "usage:write"]},
        ("*", frozenset({"byok:service", "usage:write"})),
    ),
    "Okta": (OKTA, {"org": "org_acme", "scp": ["credentials:read", "usage:read"]}, ("org_acme", READ)),
    "Auth0": (
        AUTH0,
        {"https://byok.example.com/org": "org_acme", "permissions": ["credentials:read", "usage:read"]},
        ("org_acme", READ),
    ),
    "Keycloak": (
        KEYCLOAK,
        {
            "organization": ["acme"],
            "resource_access": {"byok": {"roles": ["credentials:read", "usage:read"]}},
        },
        ("acme", READ),
    ),
    "the default": (
        ClaimNames(),
        {"org": "org_acme", "scope": "credentials:read usage:read"},
        ("org_acme", READ),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_reads_the_claims_of(name: str) -> None:
    names, claims, expected = CASES[name]

    scopes = names.scopes_of(claims)

    assert (names.organization_of(claims, scopes), scopes) == expected


@pytest.mark.parametrize(
    ("names", "claims", "reason"),
    [
        (OKTA, {"org": "org_acme"}, "claim_missing"),
        (OKTA, {"scp": ["usage:read"]}, "claim_missing"),
        (ENTRA, {"roles": ["usage:read"]}, "claim_missing"),
        (OKTA, {"org": ["a", "b"], "scp": []}, "bad_claim"),
        (OKTA, {"org": {"acme": {}}, "scp": []}, "bad_claim"),
        (OKTA, {"org": "a", "scp": [1]}, "bad_claim"),
        (OKTA, {"org": "a", "scp": {"usage:read": True}}, "bad_claim"),
        (KEYCLOAK, {"organization": "a", "resource_access": ["byok"]}, "claim_missing"),
    ],
)
def test_refuses_other_forms(names: ClaimNames, claims: dict[str, Any], reason: str) -> None:
    with pytest.raises(ClaimInvalid) as refused:
        names.organization_of(claims, names.scopes_of(claims))

    assert refused.value.reason == reason


@pytest.mark.parametrize(
    ("name", "claims"),
    [
        ("resource_access.byok.api.roles", {"resource_access": {"byok.api": {"roles": "found"}}}),
        ("https://byok.example.com/claims.org", {"https://byok.example.com/claims": {"org": "found"}}),
        ("a.b.c", {"a.b": {"c": "found"}, "a": {"b": {"c": "other"}}}),
        ("a.b.c", {"a.b.c": "found", "a.b": {"c": "other"}}),
        ("a.b.c", {"a.b": "text", "a": {"b": {"c": "found"}}}),
        ("a.b.c", {"a.b": {"x": "other"}, "a": {"b.c": "found"}}),
    ],
)
def test_a_path_reaches_keys_that_have_dots(name: str, claims: dict[str, Any]) -> None:
    names = ClaimNames(organization=name)

    assert names.organization_of(claims, frozenset()) == "found"


@pytest.mark.parametrize("name", ["a.", ".a", "a..b", ".", "a.b.c.d", "b"])
def test_a_path_that_leads_nowhere_is_a_missing_claim(name: str) -> None:
    with pytest.raises(ClaimInvalid, match="claim_missing"):
        ClaimNames(organization=name).organization_of({"a": {"b": {"c": "x"}}}, frozenset())


def test_a_service_with_an_organization_stays_bound_to_it() -> None:
    claims = {"byok_org": "org_acme", "roles": ["byok:service"]}

    assert ENTRA.organization_of(claims, ENTRA.scopes_of(claims)) == "org_acme"
