"""What report is asked for: its parameters, and the cursor that says after which row to go on."""

import base64
import binascii
import hashlib
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any
from uuid import UUID

from fastapi import Depends, Query

from app.api.dependencies import InstantQuery, only_parameters
from app.core.errors import InvalidInput
from app.usage.records import Outcome
from app.usage_mode.modes import UsageMode
from app.usage_reports.reports import BucketWidth, Dimension, Position, ReportQuery, ReportRow, zone_of
from app.usage_reports.service import position_invalid

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LATEST = datetime(9999, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

_Text = Annotated[str, Query(max_length=256, pattern=r"^[^\x00]*$")]
_AT_MOST = 100


def _only(dimension: Dimension) -> Any:
    return Query(
        alias=f"{dimension}[]", max_length=_AT_MOST, description=f"Only these values of `{dimension}`."
    )


class Question:
    """The report that is asked for, and from where on."""

    def __init__(self, query: ReportQuery, page: str | None) -> None:
        self.query = query
        self._page = page

    def position(self) -> Position | None:
        """Raises InvalidInput where the cursor is none of this report."""
        if self._page is None:
            return None
        try:
            content = base64.b64decode(
                self._page + "=" * (-len(self._page) % 4), altchars=b"-_", validate=True
            )
        except (binascii.Error, ValueError):
            raise position_invalid() from None
        question, start, end, digest = content[:8], content[8:16], content[16:24], content[24:]
        if question != self._digest() or len(digest) != hashlib.sha256().digest_size:
            raise position_invalid()
        return Position(starting_at=_instant(start), ending_at=_instant(end), digest=digest)

    def cursor(self, row: ReportRow, ending_at: datetime) -> str:
        content = b"".join((self._digest(), _bytes(row.starting_at), _bytes(ending_at), row.digest))
        return base64.urlsafe_b64encode(content).decode().rstrip("=")

    def _digest(self) -> bytes:
        """A cursor of another question would lead anywhere."""
        asked = self.query
        filters = [(dimension, sorted(map(str, asked.filters[dimension]))) for dimension in asked.filters]
        whole = (
            asked.starting_at,
            asked.ending_at,
            asked.bucket_width,
            asked.zone.key,
            asked.group_by,
            filters,
        )
        return hashlib.sha256(repr(whole).encode()).digest()[:8]


def _bytes(instant: datetime) -> bytes:
    return ((instant - _EPOCH) // _MICROSECOND).to_bytes(8)


def _instant(content: bytes) -> datetime:
    microseconds = int.from_bytes(content)
    if microseconds >= (_LATEST - _EPOCH) // _MICROSECOND:
        raise position_invalid()
    return _EPOCH + timedelta(microseconds=microseconds)


# A grouping without its brackets would silently answer another question.
only_known = Depends(
    only_parameters(
        *("starting_at", "ending_at", "bucket_width", "time_zone", "group_by[]", "limit", "page"),
        *(f"{dimension}[]" for dimension in Dimension),
        hint="Lists are named with brackets: group_by[].",
    )
)


async def _question(
    starting_at: Annotated[InstantQuery, Query(description="From this instant on, inclusive.")],
    ending_at: Annotated[
        InstantQuery | None, Query(description="Up to this instant, exclusive. Default: now.")
    ] = None,
    bucket_width: Annotated[
        BucketWidth, Query(description="How long a bucket is, by the clock of `time_zone`.")
    ] = BucketWidth.DAY,
    time_zone: Annotated[
        str, Query(max_length=64, description="A name of the IANA time zone database.")
    ] = "UTC",
    group_by: Annotated[
        list[Dimension] | None,
        Query(alias="group_by[]", max_length=_AT_MOST, description="Which dimensions to tell apart."),
    ] = None,
    usage_mode: Annotated[list[UsageMode] | None, _only(Dimension.USAGE_MODE)] = None,
    model: Annotated[list[_Text] | None, _only(Dimension.MODEL)] = None,
    endpoint_id: Annotated[list[_Text] | None, _only(Dimension.ENDPOINT_ID)] = None,
    feature: Annotated[list[_Text] | None, _only(Dimension.FEATURE)] = None,
    session_id: Annotated[list[_Text] | None, _only(Dimension.SESSION_ID)] = None,
    prompt_id: Annotated[list[_Text] | None, _only(Dimension.PROMPT_ID)] = None,
    credential_id: Annotated[list[UUID] | None, _only(Dimension.CREDENTIAL_ID)] = None,
    key_version: Annotated[
        list[Annotated[int, Query(ge=1, le=2**31 - 1)]] | None, _only(Dimension.KEY_VERSION)
    ] = None,
    outcome: Annotated[list[Outcome] | None, _only(Dimension.OUTCOME)] = None,
    page: Annotated[
        str | None, Query(max_length=200, description="`next_page` of the page before, as it was.")
    ] = None,
) -> Question:
    try:
        zone = zone_of(time_zone)
    except ValueError:
        raise InvalidInput.of(
            "time_zone", "time_zone_invalid", "A name of the IANA database is needed, such as Europe/Berlin."
        ) from None
    if ending_at is not None and ending_at <= starting_at:
        raise InvalidInput.of("ending_at", "range_invalid", "The end must be later than the start.")
    given = {
        Dimension.USAGE_MODE: usage_mode,
        Dimension.MODEL: model,
        Dimension.ENDPOINT_ID: endpoint_id,
        Dimension.FEATURE: feature,
        Dimension.SESSION_ID: session_id,
        Dimension.PROMPT_ID: prompt_id,
        Dimension.CREDENTIAL_ID: credential_id,
        Dimension.KEY_VERSION: key_version,
        Dimension.OUTCOME: outcome,
    }
    query = ReportQuery(
        starting_at=starting_at.astimezone(UTC),
        ending_at=None if ending_at is None else ending_at.astimezone(UTC),
        bucket_width=bucket_width,
        zone=zone,
        group_by=tuple(dimension for dimension in Dimension if dimension in (group_by or ())),
        filters={dimension: tuple(values) for dimension, values in given.items() if values is not None},
    )
    return Question(query, page)


AskedReport = Annotated[Question, Depends(_question)]
