"""Decides which model ids mean the same model.

The function `model_identity` of the database has the same rule (migrations/versions), and a test compares the two.
"""

import re

_SNAPSHOT_DIGITS = 8  # claude-haiku-4-5-20251001
# A dated snapshot (`claude-haiku-4-5-20251001`) and `-latest` are spellings of one model. Only one suffix is removed.
# ASCII digits only: other digits are not a date of the provider.
_SUFFIX = re.compile(r"(?<=.)-(?:latest|[0-9]{8})\Z", re.DOTALL)


def model_identity(model_id: str) -> str:
    """Return the id that all spellings of a model have in common.

    Two ids mean the same model if and only if their identities are equal. Another letter case, a
    provider's prefix, `@` or another version makes another model.
    """
    return _SUFFIX.sub("", model_id, count=1)


def without_snapshot_date(model: str) -> str:
    """Remove a snapshot date, which is the only suffix that the price list knows: `claude-haiku-4-5-20251001` becomes `claude-haiku-4-5`. Other ids stay unchanged."""
    name, dash, digits = model.rpartition("-")
    is_snapshot = dash and len(digits) == _SNAPSHOT_DIGITS and digits.isascii() and digits.isdigit()
    return name if is_snapshot else model
