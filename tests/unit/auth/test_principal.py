"""What a principal may do in the organization of a path."""

import pytest

from app.auth.principal import Principal, Scope
from app.core.errors import NotFound
from app.core.organizations import ANY_ORGANIZATION


def principal(organization_id: str) -> Principal:
    return Principal(
        subject="ada",
        organization_id=organization_id,
        scopes=frozenset({Scope.AUDIT_READ, Scope.BILLING_READ}),
    )


class TestReservedOrganization:
    @pytest.mark.parametrize("organization_id", ["_operator", "_services", "_x"])
    def test_is_only_for_internal_services(self, organization_id: str) -> None:
        principal(ANY_ORGANIZATION).require(Scope.AUDIT_READ, organization_id=organization_id)
        for bound in (organization_id, "org_acme"):
            with pytest.raises(NotFound):
                principal(bound).require(Scope.AUDIT_READ, organization_id=organization_id)

    def test_does_not_affect_ids_with_an_underscore_elsewhere(self) -> None:
        principal("org_acme").require(Scope.AUDIT_READ, organization_id="org_acme")
