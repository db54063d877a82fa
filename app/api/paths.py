"""What the path of a request says: whether it needs a token, and whose it is."""

PAGE_PREFIX = "/billing"

_PRIVATE = "/v1"
_ORGANIZATIONS = "/v1/organizations/"


def is_private(path: str) -> bool:
    """Whether a path requires a token: every path under /v1, whether it exists or not."""
    return path == _PRIVATE or path.startswith(f"{_PRIVATE}/")


def is_page(path: str) -> bool:
    """Whether a path belongs to the billing page."""
    return path == PAGE_PREFIX or path.startswith(f"{PAGE_PREFIX}/")


def organization_of(path: str) -> str | None:
    """The organization in a path such as `/v1/organizations/org_1/usage-mode`, or None."""
    if not path.startswith(_ORGANIZATIONS):
        return None
    return path.removeprefix(_ORGANIZATIONS).partition("/")[0]
