"""Results of validating a key: their statuses and reasons, which results last, and when a validation is repeated."""

import random
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from uuid import UUID

from msgspec import Struct

from app.core.notifications import CredentialResult
from app.provider_url.endpoint import AuthStyle


class ValidationStatus(StrEnum):
    """Whether the provider accepts the key.

    `valid`: it does. `invalid`: it does not. `indeterminate`: the validation could not find out.
    `pending`: the validation is still running.
    """

    PENDING = "pending"
    VALID = "valid"
    INVALID = "invalid"
    INDETERMINATE = "indeterminate"


class Reason(StrEnum):
    """Why a result has its status. The values are stable codes of the API."""

    OK = "ok"
    RATE_LIMITED = "rate_limited"
    MODEL_NOT_FOUND = "model_not_found"
    INVALID_KEY = "invalid_key"
    REVOKED_OR_DISABLED = "revoked_or_disabled"
    INSUFFICIENT_PERMISSION = "insufficient_permission"
    WORKSPACE_REQUIRED = "workspace_required"
    BILLING_PROBLEM = "billing_problem"
    NOT_ANTHROPIC_COMPATIBLE = "not_anthropic_compatible"
    REDIRECT_REFUSED = "redirect_refused"
    TLS_ERROR = "tls_error"
    ADDRESS_REFUSED = "address_refused"
    TIMEOUT = "timeout"
    UNREACHABLE = "unreachable"
    EDGE_BLOCKED = "edge_blocked"
    OVERLOADED = "overloaded"
    INTERRUPTED = "interrupted"
    SECRET_STORE_UNAVAILABLE = "secret_store_unavailable"  # noqa: S105  # a reason code, not a password
    DNS_UNAVAILABLE = "dns_unavailable"
    UNEXPECTED_ANSWER = "unexpected_answer"


_VALID = frozenset({Reason.OK, Reason.RATE_LIMITED, Reason.MODEL_NOT_FOUND})
_INDETERMINATE = frozenset(
    {
        Reason.TIMEOUT,
        Reason.UNREACHABLE,
        Reason.EDGE_BLOCKED,
        Reason.OVERLOADED,
        Reason.INTERRUPTED,
        Reason.SECRET_STORE_UNAVAILABLE,
        Reason.DNS_UNAVAILABLE,
        Reason.UNEXPECTED_ANSWER,
    }
)


def status_of(reason: Reason) -> ValidationStatus:
    """Return the status that a reason implies, unless the decision table says otherwise.

    `rate_limited` proves a key only when Anthropic's own endpoint said it; elsewhere its status is indeterminate.
    """
    if reason in _VALID:
        return ValidationStatus.VALID
    if reason in _INDETERMINATE:
        return ValidationStatus.INDETERMINATE
    return ValidationStatus.INVALID


class ValidationResult(Struct, frozen=True, kw_only=True):
    """The outcome of one validation. `reason` and `checked_at` are `None` while it is pending.

    The last three fields are those of a new result; they are not stored.

    Attributes:
        row: the id of the row of the decision table that decided; None if no probe was sent.
        needs_second_probe: it makes a key that was valid invalid only if a second probe says the same.
        retry_after: the earliest time for another probe that the provider asked for.
    """

    status: ValidationStatus
    reason: Reason | None
    checked_at: datetime | None
    provider_request_id: str | None = None
    row: str | None = None
    needs_second_probe: bool = False
    retry_after: timedelta | None = None

    @property
    def is_definite(self) -> bool:
        """True if the provider accepted or rejected the key."""
        return self.status in (ValidationStatus.VALID, ValidationStatus.INVALID)


PENDING = ValidationResult(status=ValidationStatus.PENDING, reason=None, checked_at=None)


class Trigger(StrEnum):
    """What started a validation."""

    SAVE = "save"
    REQUEST = "request"
    SCHEDULE = "schedule"
    ROTATION = "rotation"


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidationRecord:
    """One validation of one key version.

    `other_auth_style`: the header that was not tried, if a custom endpoint rejected the key as `invalid_key`.
    """

    id: UUID
    organization_id: str
    credential_id: UUID
    key_version: int
    result: ValidationResult
    trigger: Trigger
    requested_by: str
    created_at: datetime
    deadline_at: datetime
    other_auth_style: AuthStyle | None = None


# After the first, second, third and fourth consecutive indeterminate result. Then every hour.
RETRY_DELAYS = (timedelta(minutes=1), timedelta(minutes=2), timedelta(minutes=5), timedelta(minutes=15))


LONGEST_RETRY_DELAY = timedelta(hours=1)


# When the second probe of a key runs that was valid until now.
EARLIEST_SECOND_PROBE = timedelta(minutes=1)


LATEST_SECOND_PROBE = timedelta(minutes=5)


# After an older suspicion, the next invalid result counts as the first, for example if no worker ran. Longer than any `Retry-After` that is heeded.
SUSPICION_EXPIRES_AFTER = timedelta(hours=2)


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultHistory:
    """What is known about a key version before a new result.

    Attributes:
        definite_status: the status of the last definite result; None if there is none.
        indeterminate_streak: the number of consecutive results that were indeterminate.
        suspected_reason: the reason of an invalid result that a second probe has not confirmed yet.
        suspected_at: when the validation with that result finished.
    """

    definite_status: ValidationStatus | None = None
    indeterminate_streak: int = 0
    suspected_reason: Reason | None = None
    suspected_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultEffect:
    """What a new result changes.

    Attributes:
        is_definite: it becomes the last definite result of the key version.
        is_new_status: and its status is not that of the definite result before, if there was one.
    """

    is_definite: bool
    is_new_status: bool = False
    indeterminate_streak: int = 0
    suspected_reason: Reason | None = None
    suspected_at: datetime | None = None

    @property
    def is_suspected(self) -> bool:
        return self.suspected_at is not None


def effect_of(history: ResultHistory, result: ValidationResult) -> ResultEffect:
    """Decide whether a result lasts.

    An indeterminate result changes nothing but the streak, and ends a suspicion: the second probe did not agree. A
    valid key becomes invalid at once only by a result that needs no second probe; otherwise by the second of two
    results with the same reason, at least one minute apart.
    """
    if not result.is_definite:
        return ResultEffect(is_definite=False, indeterminate_streak=history.indeterminate_streak + 1)
    definite = ResultEffect(is_definite=True, is_new_status=result.status is not history.definite_status)
    if not result.needs_second_probe or history.definite_status is not ValidationStatus.VALID:
        return definite
    assert result.checked_at is not None
    since = history.suspected_at if history.suspected_reason is result.reason else None
    if since is None or result.checked_at - since > SUSPICION_EXPIRES_AFTER:
        since = result.checked_at
    if result.checked_at - since >= EARLIEST_SECOND_PROBE:
        return definite
    return ResultEffect(is_definite=False, suspected_reason=result.reason, suspected_at=since)


def retry_delay(streak: int, *, retry_after: timedelta | None = None) -> timedelta:
    """The pause after `streak` consecutive indeterminate results, plus or minus 10 %.

    Never shorter than the provider's `Retry-After`.
    """
    delay = RETRY_DELAYS[max(streak, 1) - 1] if streak <= len(RETRY_DELAYS) else LONGEST_RETRY_DELAY
    return not_before(retry_after, delay * _uniform(0.9, 1.1))


def second_probe_delay(*, retry_after: timedelta | None = None) -> timedelta:
    """The pause before the second probe: 1 to 5 minutes, or the provider's `Retry-After` if that is longer."""
    span = LATEST_SECOND_PROBE - EARLIEST_SECOND_PROBE
    return not_before(retry_after, EARLIEST_SECOND_PROBE + span * _uniform(0, 1))


def not_before(retry_after: timedelta | None, delay: timedelta) -> timedelta:
    """The delay, but not shorter than the provider's `Retry-After`, which a little jitter lengthens."""
    if retry_after is None or retry_after <= delay:
        return delay
    return retry_after * _uniform(1.0, 1.1)


def _uniform(low: float, high: float) -> float:
    return random.uniform(low, high)  # noqa: S311  # spreads load; not a secret


def result_event(
    organization_id: str,
    credential_id: UUID,
    key_version: int,
    result: ValidationResult,
    *,
    occurred_at: datetime | None = None,
) -> CredentialResult:
    """The definite result of the active key has another status than the one before.

    It occurred at the time of the result, unless the key was activated later.
    """
    assert result.checked_at is not None
    assert result.reason is not None
    return CredentialResult(
        organization_id=organization_id,
        occurred_at=occurred_at or result.checked_at,
        is_valid=result.status is ValidationStatus.VALID,
        credential_id=credential_id,
        key_version=key_version,
        reason=result.reason,
        checked_at=result.checked_at,
    )
