"""Create and open links to exports."""

import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import unquote_plus

from app.core.admission import AdmissionQueue
from app.core.clock import now
from app.core.errors import ConcurrencyLimited, InvalidInput, NotFound, RateLimited
from app.core.keys.key_lookalike import looks_like_key
from app.core.organizations import is_reserved
from app.database.group_commit import GroupCommit, WaitLimits
from app.database.unit_of_work import UnitsOfWork
from app.export_links.records import LIFETIME, MAX_OPEN_LINKS, Export
from app.export_links.repository import ExportLinkRepository

_CODE_BYTES = 32
# Opening a link needs no token, so strangers can flood it. In each process it takes at most this many connections, and
# half of them for one organization.
_OPENED_AT_ONCE = 2
_QUEUE_TIMEOUT_SECONDS = 1
_MAX_WAITING_ORGANIZATIONS = 512
# Codes of one organization that arrive at the same time are looked up in one statement of about 2 ms. So thousands of
# guessed codes a second do not keep a real one waiting.
_CODES_AT_ONCE = 500
_MAX_WAITING_CODES = 5000


@dataclass(frozen=True, slots=True, kw_only=True)
class NewLink:
    """A new link. Only the response to its creation contains the code."""

    code: str
    expires_at: datetime


class ExportLinkService:
    """Links are bound to an organization and an export, expire after a minute, and can be opened once."""

    def __init__(self, units: UnitsOfWork) -> None:
        self._units = units
        self._openings = AdmissionQueue(
            _OPENED_AT_ONCE,
            per_organization=_OPENED_AT_ONCE // 2,
            queue_timeout_seconds=_QUEUE_TIMEOUT_SECONDS,
            max_waiting=_MAX_WAITING_ORGANIZATIONS,
        )
        self._codes = GroupCommit(
            self._take,
            at_most=_CODES_AT_ONCE,
            limits=WaitLimits(
                seconds=_QUEUE_TIMEOUT_SECONDS, at_most=_MAX_WAITING_CODES, error=ConcurrencyLimited
            ),
        )

    async def create(self, organization_id: str, export: Export) -> NewLink:
        """Create a link.

        Raises:
            InvalidInput: the query contains a key, which would be stored.
            RateLimited: the organization has too many links that were not opened.
            DatabaseUnavailable
        """
        if looks_like_key(unquote_plus(export.query)):
            raise InvalidInput.of("query", "looks_like_key", "The query contains a key. Remove it.")
        code, instant = secrets.token_urlsafe(_CODE_BYTES), now()
        link = NewLink(code=code, expires_at=instant + LIFETIME)
        async with self._units.writing(organization_id) as uow:
            await uow[ExportLinkRepository].lock_count()
            if await uow[ExportLinkRepository].count(now=instant) >= MAX_OPEN_LINKS:
                raise RateLimited(retry_after_seconds=int(LIFETIME.total_seconds()))
            await uow[ExportLinkRepository].insert(_digest(code), export, expires_at=link.expires_at)
            await uow.commit()
        return link

    async def open(self, organization_id: str, code: str) -> Export:
        """Use a link up, and return what it is for.

        Raises:
            NotFound: it does not exist, was opened before, or has expired.
            ConcurrencyLimited: too many requests that open links are in progress, mostly of other organizations.
            DatabaseUnavailable
        """
        if looks_like_key(organization_id) or is_reserved(organization_id):
            raise NotFound  # before any SQL: the server's log may contain the id
        return await self._codes.submit(organization_id, _digest(code))

    async def _take(self, organization_id: str, digests: Sequence[bytes]) -> Sequence[Export | Exception]:
        """Use up the links of these codes. Of equal codes only the first one opens its link."""
        async with self._openings.slot(organization_id), self._units.writing(organization_id) as uow:
            taken = await uow[ExportLinkRepository].take(set(digests), now=now())
            if taken:
                await uow.commit()
        return [taken.pop(digest) if digest in taken else NotFound() for digest in digests]


def _digest(code: str) -> bytes:
    """A code is random, so that a digest without a key does not reveal it."""
    return hashlib.sha256(code.encode()).digest()
