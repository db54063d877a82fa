"""When a key that was replaced may be revoked at the provider without anybody noticing."""

from datetime import datetime

from app.credentials.records import VersionRecord


def is_safe_to_revoke(previous: VersionRecord, *, checked_until: datetime | None, now: datetime) -> bool:
    """Whether nobody can still be at work with a replaced key, as far as what is on record goes.

    No instance keeps keys: each is read for one check or wrapped for one lease, and both are on record
    before the key is read or handed over. So everybody is past the switch once the last lease of before
    it has expired (until then its consumer may open and use the key) and no check is under way.
    A use that is later than that means that somebody kept the key: it is not safe, whatever time passes.

    Args:
        previous: the version, as it stands.
        checked_until: when the check that is under way ends at the latest; None where none is.
        now: the present instant.
    """
    if previous.replaced_at is None:
        return False  # replaced by a release that did not note when
    accounted_until = max(previous.replaced_at, previous.leased_until or previous.replaced_at)
    is_kept_by_somebody = previous.last_used_at is not None and previous.last_used_at > accounted_until
    is_being_checked = checked_until is not None and checked_until > now
    return now >= accounted_until and not is_kept_by_somebody and not is_being_checked
