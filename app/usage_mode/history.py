"""Which usage mode and which key version of a credential was active at an instant."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from app.usage_mode.modes import INITIAL_MODE, ModeChange


class ModeHistory:
    """The usage mode changes of one organization, oldest first. Each one has an `effective_from`."""

    def __init__(self, changes: Sequence[ModeChange]) -> None:
        self.changes = changes
        self._starts = [change.effective_from for change in changes if change.effective_from is not None]
        if len(self._starts) != len(changes):
            raise ValueError("a usage mode change has no effective_from")

    def at(self, instant: datetime) -> ModeChange:
        """The change that was active at that instant; the initial mode before the first change."""
        if not self.changes:
            return INITIAL_MODE
        number = bisect_right(self._starts, instant)
        return INITIAL_MODE if number == 0 else self.changes[number - 1]


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyVersionActivation:
    """When a key version was activated, and where its key is sent.

    `activated_at` is the last activation; `None` if it was never active. `rotated_at` is when the rotation that created
    the version was decided; `None` for the first version. `base_url` is `None` for Anthropic's endpoint.
    """

    key_version: int
    activated_at: datetime | None
    rotated_at: datetime | None
    base_url: str | None

    @property
    def is_compatible_endpoint(self) -> bool:
        return self.base_url is not None


class KeyVersionHistory:
    """The key versions of one credential.

    Args:
        versions: all of them; or the one that was active at some time, all that were activated later, and any others. Then
            the history is known from that time on.
        is_any_compatible: whether the key of any version, also of one that is not given, is sent to an endpoint other than
            Anthropic's. None: all versions are given.
    """

    def __init__(
        self, versions: Sequence[KeyVersionActivation], *, is_any_compatible: bool | None = None
    ) -> None:
        if is_any_compatible is None:
            is_any_compatible = any(version.is_compatible_endpoint for version in versions)
        self._is_any_compatible = is_any_compatible
        self._versions = {version.key_version: version for version in versions}
        activated = sorted(
            (version.activated_at, version.key_version)
            for version in versions
            if version.activated_at is not None
        )
        self._starts = [start for start, _ in activated]
        self._numbers = [number for _, number in activated]
        # A rollback overwrites the first activation of a version. Then only the last activation is known.
        self._known_from = max(len(activated) - 1, 0) if _was_rolled_back(versions) else 0

    def __contains__(self, key_version: int) -> bool:
        return key_version in self._versions

    def at(self, instant: datetime) -> int | None:
        """The version that was active at that instant; `None` if it is not known."""
        number = bisect_right(self._starts, instant) - 1
        return self._numbers[number] if number >= self._known_from else None

    def is_compatible_endpoint(self, key_version: int | None) -> bool:
        """Whether the key is sent to an endpoint other than Anthropic's. If the version is unknown: whether any key is."""
        if key_version is not None:
            return self._versions[key_version].is_compatible_endpoint
        return self._is_any_compatible


def _was_rolled_back(versions: Sequence[KeyVersionActivation]) -> bool:
    """Whether a rollback activated any version again.

    That is so if a version was activated later than by its own rotation, or the first version later than another one.
    """
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
