"""Organization ids: their syntax, and the reserved ones."""

# In a token: the caller is an internal service and may act for every organization.
ANY_ORGANIZATION = "*"

ORGANIZATION_PATTERN = r"^[A-Za-z0-9_-]{1,64}$"

# Owns the audit log of events that concern the installation and not a tenant.
OPERATOR_ORGANIZATION = "_operator"

# Ids that begin with it are reserved. Only internal services may use them: no token can be bound to one.
_RESERVED_PREFIX = "_"


def is_reserved(organization_id: str) -> bool:
    """Whether an organization belongs to the installation and not to a customer."""
    return organization_id.startswith(_RESERVED_PREFIX)
