"""Tests of the revision check behind If-Match."""

import pytest

from app.core.errors import PreconditionFailed
from app.core.revisions import ANY_REVISION, require_revision


class TestRequireRevision:
    @pytest.mark.parametrize("expected", [None, ANY_REVISION, frozenset({3}), frozenset({2, 3})])
    def test_accepts_a_named_revision_or_any(self, expected: frozenset[int] | None) -> None:
        require_revision(3, expected)

    @pytest.mark.parametrize("expected", [frozenset({2}), frozenset[int]()])
    def test_rejects_other_revisions(self, expected: frozenset[int]) -> None:
        with pytest.raises(PreconditionFailed):
            require_revision(3, expected)

    @pytest.mark.parametrize("expected", [ANY_REVISION, frozenset({0}), frozenset[int]()])
    def test_rejects_a_resource_that_does_not_exist(self, expected: frozenset[int]) -> None:
        with pytest.raises(PreconditionFailed):
            require_revision(None, expected)

    def test_accepts_a_new_resource_without_a_condition(self) -> None:
        require_revision(None, None)
