"""Verdicts on a key: status, reason, and which reason belongs to which status."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from uuid import UUID


class ValidationStatus(StrEnum):
    """Three-way honesty: works, refused, or could not check. Pending while the check runs."""

    PENDING = "pending"
    VALID = "valid"
    INVALID = "invalid"
    INDETERMINATE = "indeterminate"


class Reason(StrEnum):
    """Why the verdict is what it is. Stable codes of the contract."""

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
    SECRET_STORE_UNAVAILABLE = "secret_store_unavailable"  # noqa: S105  # a code, no password
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
    """The status that a reason implies."""
    if reason in _VALID:
        return ValidationStatus.VALID
    if reason in _INDETERMINATE:
        return ValidationStatus.INDETERMINATE
    return ValidationStatus.INVALID


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a check found. `reason` is None while pending."""

    status: ValidationStatus
    reason: Reason | None
    checked_at: datetime | None
    provider_request_id: str | None = None

    @property
    def is_definite(self) -> bool:
        return self.status in (ValidationStatus.VALID, ValidationStatus.INVALID)


PENDING = Verdict(status=ValidationStatus.PENDING, reason=None, checked_at=None)


class Trigger(StrEnum):
    """What asked for a check."""

    SAVE = "save"
    REQUEST = "request"
    SCHEDULE = "schedule"
    ROTATION = "rotation"


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidationRecord:
    """One check of one key version."""

    id: UUID
    organization_id: str
    credential_id: UUID
    key_version: int
    verdict: Verdict
    trigger: Trigger
    requested_by: str
    created_at: datetime
    deadline_at: datetime
