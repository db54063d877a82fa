"""What a link to an export is for."""

from dataclasses import dataclass
from datetime import timedelta

from app.auth.principal import Scope

LIFETIME = timedelta(minutes=1)
# Links of one organization that were not opened and have not expired.
MAX_OPEN_LINKS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """One export: an operation with its query, on behalf of the client that created the link."""

    path: str
    query: str
    scope: Scope
    subject: str
