"""Revisions of resources, as clients name them in If-Match."""

from collections.abc import Collection

from app.core.errors import PreconditionFailed


def require_revision(revision: int, expected: Collection[int] | None) -> None:
    """Check the revision of a resource before it is changed.

    Args:
        revision: the current revision.
        expected: the revisions that If-Match names; None if the client accepts any revision.

    Raises:
        PreconditionFailed
    """
    if expected is not None and revision not in expected:
        raise PreconditionFailed
