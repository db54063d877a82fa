"""Texts bound to what is encrypted: unambiguous, because each part says its length."""


def length_prefixed(*parts: bytes) -> bytes:
    """The parts in one, so that no two different lists of parts give the same bytes."""
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)
