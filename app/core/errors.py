"""The domain errors, as one class hierarchy.

ByokError
├── InvalidInput            one or more fields are invalid; carries field errors, never the input
│   └── KeyRefused          the text cannot be a provider key
├── Unauthenticated         the bearer token is missing or invalid
├── Forbidden
│   ├── SignInRefused       the sign-in code of the billing page is not accepted
│   ├── InsufficientScope
│   └── ServiceOnly         the route is for internal services (org=*)
├── NotFound                does not exist, or belongs to another organization
├── Conflict
│   ├── DuplicateKey        another live credential of the organization has the same key
│   ├── CredentialDeleted   the credential was deleted
│   ├── CredentialInUse     the usage mode, or a scheduled change of it, names the credential
│   ├── RotationInProgress  another rotation of the credential is pending
│   ├── RotationNotPending  the rotation has ended and cannot be cancelled
│   ├── NoPreviousVersion   no previous key version is kept
│   ├── VersionInUse        the key version is active, or a rotation is activating it
│   ├── ModeIsManaged       the usage mode is managed, so no key can be leased
│   ├── NotReady            work must not start; carries the blockers
│   ├── TooManyCredentials  the organization has the maximum number of credentials
│   ├── TooManyVersions     another version would make the secret store drop a kept one
│   ├── TooManyLimits       the organization has the maximum number of spend limits
│   ├── TooManyEndpoints    the organization has the maximum number of webhook endpoints
│   ├── ReservationEnded    the reservation was settled or has expired
│   ├── StatementClosed     the month's statement is closed and cannot change
│   ├── MonthNotOver        the month has not ended, so it cannot be closed
│   ├── IdempotencyInProgress
│   └── ConcurrentChange    another request changed the resource between read and write
├── IdempotencyKeyReused    the Idempotency-Key was used for another request
├── PreconditionFailed      If-Match names another revision
├── SpendLimitExceeded      the reservation would exceed a blocking spend limit; names the limit
├── LeaseRequiresVault      the embedded store cannot lease keys
├── MalformedJson           the body is not JSON in UTF-8
├── LineTooLong             a line of NDJSON exceeds the maximum length
├── RateLimited             too many requests; carries retry_after_seconds
│   └── IngestionOverloaded usage events arrive faster than the database can store them
└── Unavailable             a dependency is down; carries retry_after_seconds
    ├── DatabaseUnavailable
    │   └── ConcurrencyLimited      the organization has too many requests in progress
    ├── SecretStoreUnavailable      subclasses: `app.core.secret_store_errors`
    └── IdentityProviderUnavailable

Messages are constants: an error never carries what the client sent. Only `app.api.problems` knows HTTP statuses.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID


class ByokError(Exception):
    """Base class of all domain errors. `code` is part of the API's contract; `detail` is a constant message."""

    code: str = "internal_error"
    detail: str = "An internal error occurred. Quote the request id when you ask for help."

    def __init__(self) -> None:
        super().__init__(self.detail)


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldError:
    """One invalid field. `field` is a declared name, `message` a constant."""

    field: str
    code: str
    message: str


class InvalidInput(ByokError):
    """One or more fields of the request are missing or invalid."""

    code = "validation_failed"
    detail = "Fields of the request are missing or invalid. See `errors`."

    def __init__(self, *errors: FieldError, code: str | None = None) -> None:
        super().__init__()
        self.errors = errors
        self.problem_code = code or self.code

    @classmethod
    def of(cls, field: str, code: str, message: str) -> "InvalidInput":
        """Report one field; its code is also the problem's code."""
        return cls(FieldError(field=field, code=code, message=message), code=code)

    @classmethod
    def invalid_field(cls, field: str, code: str, message: str) -> "InvalidInput":
        """Report one missing or malformed field. The problem's code is `validation_failed`, as from a schema."""
        return cls(FieldError(field=field, code=code, message=message))


class KeyRefused(InvalidInput):
    """The text cannot be a provider key. Raised before any network call."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(FieldError(field="api_key", code=code, message=message), code=code)


class Unauthenticated(ByokError):
    """The bearer token is missing or invalid."""

    code = "unauthenticated"
    detail = "The bearer token is missing or invalid. Send `Authorization: Bearer <JWT>` with a valid token."
    # Whether there was a token. The challenge names `invalid_token` only then (RFC 6750, section 3.1).
    has_token = False


class Forbidden(ByokError):
    """The caller is authenticated but not allowed to do this."""


class SignInRefused(Forbidden):
    """The sign-in code of the billing page is not accepted."""

    code = "sign_in_refused"
    detail = (
        "The sign-in code is invalid, expired or used, or was not sent by the page. Run `byok page` again."
    )


class InsufficientScope(Forbidden):
    """The token lacks the scope that the route requires."""

    code = "insufficient_scope"
    detail = (
        "The token lacks the scope that this operation requires. The WWW-Authenticate header names it. `usage:write` and"
        " `leases:create` count only in tokens of internal services, whose `org` is `*`."
    )

    def __init__(self, scope: str) -> None:
        super().__init__()
        self.scope = scope


class ServiceOnly(Forbidden):
    """The route is only for internal services, whose tokens carry org=*."""

    code = "service_only"
    detail = "Only internal services may do this. Use a token with org=*."


class NotFound(ByokError):
    """The resource does not exist or belongs to another organization. The response does not reveal which."""

    code = "not_found"
    detail = "The resource does not exist."


class Conflict(ByokError):
    """The current state does not allow the request."""


class DuplicateKey(Conflict):
    """Another live credential of the organization has the same key."""

    code = "duplicate_key"
    detail = "Another credential of this organization already has this key."

    def __init__(self, credential_id: UUID | None) -> None:
        super().__init__()
        self.credential_id = credential_id


class CredentialDeleted(Conflict):
    """The credential was deleted. Its record can be read, but it cannot be used or changed."""

    code = "credential_deleted"
    detail = "The credential was deleted. Only its record can be read."


class CredentialInUse(Conflict):
    """The current usage mode, or a scheduled change of it, names the credential."""

    code = "credential_in_use"
    detail = "The usage mode, or a scheduled change of it, names this credential. Change the usage mode first, or force the deletion of a leaked key."


class RotationInProgress(Conflict):
    """Another rotation of the credential is pending."""

    code = "rotation_in_progress"
    detail = "Another rotation of this credential is pending. Wait for it to end, or cancel it."

    def __init__(self, rotation_id: UUID | None = None) -> None:
        super().__init__()
        self.rotation_id = rotation_id


class RotationNotPending(Conflict):
    """The rotation has ended and cannot be cancelled."""

    code = "rotation_not_pending"
    detail = "The rotation has ended and cannot be cancelled. If it activated the new key, roll back to restore the previous one."


class NoPreviousVersion(Conflict):
    """No previous key version is kept, so a rollback is not possible."""

    code = "no_previous_version"
    detail = "No previous key is kept. Rotate to a new key instead."


class VersionInUse(Conflict):
    """The key version is active, or a pending rotation is activating it."""

    code = "version_in_use"
    detail = "This key version is active, or a rotation is activating it. Rotate or cancel first, or delete the credential."


class TooManyVersions(Conflict):
    """Another version would make the secret store drop a version that is still kept."""

    code = "too_many_versions"
    detail = "The credential has too many key versions since the oldest that is kept. Destroy old versions, then rotate."


class TooManyCredentials(Conflict):
    """The organization has the maximum number of credentials that are not deleted."""

    code = "too_many_credentials"
    detail = "The organization has the maximum number of credentials. Delete one first."


class ModeIsManaged(Conflict):
    """The usage mode is `managed`, so no key can be leased."""

    code = "mode_is_managed"
    detail = (
        "The organization's usage mode is `managed`. Only a key that is used in mode `byo` can be leased."
    )


class NotReady(Conflict):
    """Provider-backed work must not start. `blockers` lists the reasons."""

    code = "not_ready"
    detail = "Provider-backed work must not start now. See `blockers` for the reasons."

    def __init__(self, blockers: Sequence[str]) -> None:
        super().__init__()
        self.blockers = tuple(blockers)


class TooManyLimits(Conflict):
    """The organization has the maximum number of spend limits."""

    code = "too_many_limits"
    detail = "The organization has the maximum number of spend limits. Delete one first."


class TooManyEndpoints(Conflict):
    """The organization has the maximum number of webhook endpoints."""

    code = "too_many_endpoints"
    detail = "The organization has the maximum number of webhook endpoints. Delete one first."


class ReservationEnded(Conflict):
    """The usage event of the reservation was ingested: it settled the reservation, or it has no known price yet."""

    code = "reservation_ended"
    detail = "The usage event of the reservation was ingested. The reservation can no longer be released."


class SpendLimitExceeded(ByokError):
    """The reservation would exceed a blocking spend limit. `reason` is `limit_reached` or `price_unknown`."""

    code = "spend_limit_exceeded"
    detail = "A spend limit does not allow this reservation. See `limit_id`, `limit_name` and `reason`."

    def __init__(self, *, limit_id: UUID, limit_name: str, reason: str) -> None:
        super().__init__()
        self.limit_id = limit_id
        self.limit_name = limit_name
        self.reason = reason


class StatementClosed(Conflict):
    """The statement of the month is closed and cannot be changed."""

    code = "statement_closed"
    detail = "The statement of this month is closed and cannot be changed."


class MonthNotOver(Conflict):
    """The month has not ended, so it cannot be closed."""

    code = "month_not_over"
    detail = "This month has not ended in UTC. Close it after it has ended."


class LeaseRequiresVault(ByokError):
    """Leases require Vault, because the embedded store cannot wrap a key in a single-use token."""

    code = "lease_requires_vault"
    detail = "Leases require HashiCorp Vault or OpenBao. The embedded secret store does not support them."


class ConcurrentChange(Conflict):
    """Another request changed the resource between read and write."""

    code = "concurrent_change"
    detail = "Another request changed the resource. Read it again, then repeat the request."


class IdempotencyInProgress(Conflict):
    """A request with the same Idempotency-Key is still running."""

    code = "idempotency_in_progress"
    detail = "A request with this Idempotency-Key is still running. Repeat the request in a moment."


class IdempotencyKeyReused(ByokError):
    """The Idempotency-Key was used for another request."""

    code = "idempotency_key_reused"
    detail = "This Idempotency-Key was used for a different request. Use a new key."


class PreconditionFailed(ByokError):
    """If-Match names a revision that is not the current one."""

    code = "precondition_failed"
    detail = "The resource is not at the revision that If-Match names. Read it again."


class RateLimited(ByokError):
    """The organization sent too many requests of this kind in the current minute."""

    code = "rate_limited"
    detail = "This organization sent too many requests of this kind. Wait, then repeat the request."

    def __init__(self, retry_after_seconds: int) -> None:
        super().__init__()
        self.retry_after_seconds = retry_after_seconds


class IngestionOverloaded(RateLimited):
    """Usage events arrive faster than the database can store them. No event of the refused batch was stored."""

    code = "ingestion_overloaded"
    detail = "Usage events arrive faster than they can be stored. Wait, then repeat the request. Events that were already stored are reported as duplicates."

    def __init__(self, retry_after_seconds: int = 2) -> None:
        super().__init__(retry_after_seconds)


class MalformedJson(ByokError):
    """The body is not JSON in UTF-8."""

    code = "malformed_json"
    detail = "The body is not valid JSON. Send JSON in UTF-8."


class LineTooLong(ByokError):
    """A line of NDJSON exceeds the maximum length. The lines before it were ingested."""

    code = "payload_too_large"
    detail = "A line is longer than 64 KiB. `committed` counts the lines before it that were ingested."


class Unavailable(ByokError):
    """A dependency is down. No data was lost.

    The client may repeat the request after `retry_after_seconds`. None means that an operator must act first.
    """

    retry_after_seconds: int | None = 5


class DatabaseUnavailable(Unavailable):
    """The database cannot be reached or temporarily refuses requests."""

    code = "database_unavailable"
    detail = "The database cannot be reached right now. Repeat the request in a moment."


class ConcurrencyLimited(DatabaseUnavailable):
    """The organization has too many requests in progress. Other organizations are not affected.

    To a background job it is like a database that is busy: the job is postponed.
    """

    code = "concurrency_limited"
    detail = "This organization has too many requests of this kind in progress. Wait until some have finished, then repeat the request."
    retry_after_seconds = 2


class SecretStoreUnavailable(Unavailable):
    """The secret store cannot be reached or does not serve requests."""

    code = "secret_store_unavailable"
    detail = "The secret store cannot be reached right now. Repeat the request in a moment."


class IdentityProviderUnavailable(Unavailable):
    """The token issuer's keys cannot be fetched, and the cached keys are too old to trust."""

    code = "identity_provider_unavailable"
    detail = "Tokens cannot be verified right now. Repeat the request in a moment."
