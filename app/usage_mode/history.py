"""What was in force at an instant: the usage mode, and the key version of a credential."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from app.usage_mode.modes import INITIAL_MODE, UsageModePoint


class ModeTimeline:
    """Points of one organization, oldest first. A point counts from its instant on, inclusive."""

    def __init__(self, points: Sequence[UsageModePoint]) -> None:
        self.points = points
        self._starts = [point.effective_from for point in points if point.effective_from is not None]
        assert len(self._starts) == len(points)

    def at(self, instant: datetime) -> UsageModePoint:
        if not self.points:
            return INITIAL_MODE
        number = bisect_right(self._starts, instant)
        return INITIAL_MODE if number == 0 else self.points[number - 1]


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionInTime:
    """One key version: since when it is in use, when the rotation that brought it took force, where its key goes."""

    key_version: int
    activated_at: datetime | None
    rotated_at: datetime | None
    base_url: str | None

    @property
    def is_compatible_endpoint(self) -> bool:
        return self.base_url is not None


class KeyTimeline:
    """The versions of one credential."""

    def __init__(self, versions: Sequence[VersionInTime]) -> None:
        self._versions = {version.key_version: version for version in versions}
        used = sorted(
            (version.activated_at, version.key_version)
            for version in versions
            if version.activated_at is not None
        )
        self._starts = [start for start, _ in used]
        self._numbers = [number for _, number in used]
        # A rollback overwrites when a version was first activated: before the last activation nothing is sure then.
        self._sure_from = 0 if not _was_rolled_back(versions) else max(len(used) - 1, 0)

    def __contains__(self, key_version: int) -> bool:
        return key_version in self._versions

    def at(self, instant: datetime) -> int | None:
        """The version in use at that instant; None where that cannot be told."""
        number = bisect_right(self._starts, instant) - 1
        return self._numbers[number] if number >= self._sure_from else None

    def is_compatible_endpoint(self, key_version: int | None) -> bool:
        """Whether the key goes to an endpoint that is not Anthropic's; any of them where the version is unknown."""
        if key_version is not None:
            return self._versions[key_version].is_compatible_endpoint
        return any(version.is_compatible_endpoint for version in self._versions.values())


def _was_rolled_back(versions: Sequence[VersionInTime]) -> bool:
    """Whether any version was activated again: later than its rotation took force or, the first one, than any other."""
    others = [version.rotated_at for version in versions if version.rotated_at is not None]
    return any(
        version.activated_at is not None
        and (
            version.activated_at > version.rotated_at
            if version.rotated_at is not None
            else any(version.activated_at > rotated_at for rotated_at in others)
        )
        for version in versions
    )
