"""Unambiguous encoding of several byte strings as one, for associated data and fingerprints."""


def length_prefixed(*parts: bytes) -> bytes:
    """Join the parts, each after its length, so that two different lists never give the same bytes."""
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)
