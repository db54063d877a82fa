"""The table of ends: what a call costs, by who ended it and how far it got. No I/O.

docs/explanation/relay.md has the same table with its reasons.
"""

from dataclasses import dataclass
from typing import Final

import orjson

from app.core.clock import now
from app.relay.records import AdmittedCall, CallEnd, EndedBy, counters
from app.relay.usage_meter import Metered
from app.usage_events.priced_event import BILLED_REFUSAL_CATEGORIES, REFUSAL
from app.usage_events.records import Outcome, UsageSource

_FIRST_ERROR_STATUS: Final = 400
# The client or the relay ended it. In all other cases it was the provider, or it is complete.
_ABORTED: Final = frozenset(
    {EndedBy.CLIENT, EndedBy.SLOW_CLIENT, EndedBy.DRAIN, EndedBy.TOO_LONG, EndedBy.FAULT}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a call got.

    Attributes:
        was_sent: bytes of the request may have reached the provider.
        status: the provider's; None before its head.
        metered: what was read of its response; None before its head.
        provider_request_id: the provider's id of the request.
    """

    was_sent: bool = False
    status: int | None = None
    metered: Metered | None = None
    provider_request_id: str | None = None


def end_of(call: AdmittedCall, progress: Progress, by: EndedBy) -> CallEnd | None:
    """The end of a call. None: the provider never got to see it, so its reservation is released."""
    if not progress.was_sent:
        return None
    outcome, source, usage = _cost(call, progress, by)
    metered = progress.metered
    return CallEnd(
        call=call,
        by=by,
        outcome=outcome,
        usage_source=source,
        usage=usage,
        completed_at=now(),
        model=None if metered is None else metered.model,
        provider_request_id=progress.provider_request_id,
        is_refusal=metered is not None and metered.stop_reason == REFUSAL,
        refusal_category=None if metered is None else _billed_category(metered),
    )


def _billed_category(metered: Metered) -> str | None:
    """The category of a refusal if it changes the cost. Another text is not kept: a gateway could leak the key in it."""
    return metered.refusal_category if metered.refusal_category in BILLED_REFUSAL_CATEGORIES else None


def _cost(call: AdmittedCall, progress: Progress, by: EndedBy) -> tuple[Outcome, UsageSource, bytes]:
    estimated_input = counters(input_tokens=call.request.input_tokens)
    outcome = Outcome.ABORTED if by in _ABORTED else Outcome.FAILED
    if progress.status is None or progress.metered is None:
        # A connection that breaks before the head is most often one that the provider did not work for.
        is_reset = by is EndedBy.PROVIDER_CUT
        return outcome, UsageSource.ESTIMATED, counters() if is_reset else estimated_input
    if progress.status >= _FIRST_ERROR_STATUS:
        return Outcome.FAILED, UsageSource.REPORTED, counters()
    metered = progress.metered
    if metered.usage is None:
        # A complete body without usage is not a message. What was cut may have been one.
        is_message = by is not EndedBy.COMPLETE and not metered.has_error
        return outcome, UsageSource.ESTIMATED, estimated_input if is_message else counters()
    if by is EndedBy.COMPLETE and metered.is_complete and not metered.has_error:
        outcome = Outcome.SUCCEEDED
    return outcome, UsageSource(metered.source.value), orjson.dumps(metered.usage)


def usage_so_far(call: AdmittedCall, metered: Metered | None) -> bytes:
    """What the journal of open calls records while a call is in progress."""
    if metered is None or metered.usage is None:
        return counters(input_tokens=call.request.input_tokens)
    return orjson.dumps(metered.usage)
