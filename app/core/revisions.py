"""Revisions of resources, as clients name them in If-Match."""

from collections.abc import Collection
from typing import Final

from app.core.errors import PreconditionFailed


class _AnyRevision(frozenset[int]):
    """Contains every revision."""

    def __contains__(self, revision: object) -> bool:
        return True


# `If-Match: *`: the resource must exist, at any revision.
ANY_REVISION: Final[frozenset[int]] = _AnyRevision()


def require_revision(revision: int | None, expected: Collection[int] | None) -> None:
    """Check the revision of a resource before it is changed.

    Args:
        revision: the current revision; None if the resource does not exist yet, which matches no If-Match.
        expected: the revisions that If-Match names; None if the client accepts any, also that of a new resource.

    Raises:
        PreconditionFailed
    """
    if expected is not None and (revision is None or revision not in expected):
        raise PreconditionFailed
