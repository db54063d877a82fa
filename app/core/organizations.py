"""Organizations: how an id is written, and the ids that are reserved."""

ANY_ORGANIZATION = "*"


ORGANIZATION_PATTERN = r"^[A-Za-z0-9_-]{1,64}$"


# The trail of what concerns the installation and no tenant.
OPERATOR_ORGANIZATION = "_operator"
