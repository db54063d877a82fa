"""Bounds the bytes that the requests of one organization, and of all together, hold at a time."""

from collections import Counter


class MemoryBudget:
    """Counts bytes. Nothing waits for them: a client repeats a refused request by itself.

    Args:
        total: the bytes of all organizations together.
        per_organization: how many of them one organization may hold.
    """

    def __init__(self, total: int, *, per_organization: int) -> None:
        self._total = total
        self._per_organization = per_organization
        self._held: Counter[str] = Counter()
        self.held_bytes = 0

    def try_hold(self, organization_id: str, more: int) -> bool:
        """Hold more bytes. Returns False, and holds none of them, if there are not enough."""
        if (
            self.held_bytes + more > self._total
            or self._held[organization_id] + more > self._per_organization
        ):
            self._forget_if_empty(organization_id)
            return False
        self.held_bytes += more
        self._held[organization_id] += more
        return True

    def release(self, organization_id: str, held: int) -> None:
        self.held_bytes -= held
        self._held[organization_id] -= held
        self._forget_if_empty(organization_id)

    def _forget_if_empty(self, organization_id: str) -> None:
        if not self._held[organization_id]:
            del self._held[organization_id]
