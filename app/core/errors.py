"""Everything that can go wrong, as one tree.

ByokError
├── InvalidInput            a field is wrong; carries field errors, never the input
│   └── KeyRefused          the text cannot be a provider key
├── Unauthenticated         no token, or one that does not verify
├── Forbidden
│   ├── InsufficientScope
│   └── ServiceOnly         the route is for internal services (org=*)
├── NotFound                absent, or another organization's
├── Conflict
│   ├── DuplicateKey        the same key is in another live credential of the organization
│   ├── CredentialDeleted   the credential was deleted
│   ├── CredentialInUse     it is the BYO credential in force, or of a scheduled switch
│   ├── RotationInProgress  another key is on its way into use
│   ├── RotationNotPending  the rotation is decided and cannot be cancelled
│   ├── NoPreviousVersion   nothing is kept that a rollback could restore
│   ├── VersionInUse        the key version is active, or on its way
│   ├── ModeIsManaged       there is no key of the organization's own to lease
│   ├── NotReady            work must not start; carries the blockers
│   ├── TooManyVersions     one more would push a kept version out of the store
│   ├── TooManyLimits       the organization has as many spend limits as it may
│   ├── TooManyEndpoints    the organization has as many webhook endpoints as it may
│   ├── ReservationEnded    it was settled, or expired and is charged until its event comes
│   ├── StatementClosed     the month's statement is closed and never changes
│   ├── MonthNotOver        a month is closed when it is over
│   ├── IdempotencyInProgress
│   └── ConcurrentChange    somebody else changed it between read and write
├── IdempotencyKeyReused    same Idempotency-Key, another request
├── PreconditionFailed      If-Match names another revision
├── SpendLimitExceeded      a blocking spend limit leaves no room; names it
├── LeaseRequiresVault      the embedded store cannot hand a key over without us
├── MalformedJson           a body is no JSON in UTF-8
├── LineTooLong             a line of NDJSON is longer than a line may be
├── RateLimited             too many per minute; carries retry_after_seconds
│   └── IngestionOverloaded more usage events than the database keeps up with
└── Unavailable             a dependency is down; carries retry_after_seconds
    ├── DatabaseUnavailable
    ├── SecretStoreUnavailable      its kinds: `app.core.secret_store_errors`
    └── IdentityProviderUnavailable

Messages are constants: an error never carries what the client sent. HTTP statuses are the
business of `app.api.problems` alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID


class ByokError(Exception):
    """Root of the tree. `code` is stable and part of the contract; `detail` is a constant sentence."""

    code: str = "internal_error"
    detail: str = "Something went wrong on our side. Quote the request id when you ask for help."

    def __init__(self) -> None:
        super().__init__(self.detail)


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldError:
    """One field that is wrong. `field` is a declared name, `message` a constant."""

    field: str
    code: str
    message: str


class InvalidInput(ByokError):
    """One or more fields are wrong."""

    code = "validation_failed"
    detail = "The request has fields that are missing or wrong; `errors` names them."

    def __init__(self, *errors: FieldError, code: str | None = None) -> None:
        super().__init__()
        self.errors = errors
        self.problem_code = code or self.code

    @classmethod
    def of(cls, field: str, code: str, message: str) -> "InvalidInput":
        """A refusal of one field whose code is also the problem's code."""
        return cls(FieldError(field=field, code=code, message=message), code=code)

    @classmethod
    def in_form(cls, field: str, code: str, message: str) -> "InvalidInput":
        """A field that is missing or of the wrong type: `validation_failed`, as wherever it is read by a schema."""
        return cls(FieldError(field=field, code=code, message=message))


class KeyRefused(InvalidInput):
    """The text cannot be a provider key; refused before any network call."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(FieldError(field="api_key", code=code, message=message), code=code)


class Unauthenticated(ByokError):
    """No bearer token, or one that does not verify."""

    code = "unauthenticated"
    detail = "A valid bearer token is needed: Authorization: Bearer <JWT>."


class Forbidden(ByokError):
    """The caller is known and may not do this."""


class InsufficientScope(Forbidden):
    """The token lacks the scope that the route needs."""

    code = "insufficient_scope"
    detail = "The token does not carry the scope that this operation needs."

    def __init__(self, scope: str) -> None:
        super().__init__()
        self.scope = scope


class ServiceOnly(Forbidden):
    """The route is for internal services, whose tokens carry org=*."""

    code = "service_only"
    detail = "This operation is for internal services: it needs a token with org=*."


class NotFound(ByokError):
    """Absent, or another organization's: the answer is the same."""

    code = "not_found"
    detail = "There is no such resource."


class Conflict(ByokError):
    """The request contradicts the present state."""


class DuplicateKey(Conflict):
    """The same key is in another live credential of the organization."""

    code = "duplicate_key"
    detail = "This organization already has a live credential with the same key."

    def __init__(self, credential_id: UUID | None) -> None:
        super().__init__()
        self.credential_id = credential_id


class CredentialDeleted(Conflict):
    """The credential was deleted; its record can be read but not used or changed."""

    code = "credential_deleted"
    detail = "The credential was deleted. Its record can still be read."


class CredentialInUse(Conflict):
    """The credential is the BYO credential in force, or of a scheduled switch."""

    code = "credential_in_use"
    detail = "The credential is in use as the organization's own key, or will be by a scheduled switch. Switch the usage mode first, or force the deletion of a leaked key."


class RotationInProgress(Conflict):
    """Another key of this credential is on its way into use."""

    code = "rotation_in_progress"
    detail = "Another key of this credential is on its way into use. Wait for its rotation, or cancel it."


class RotationNotPending(Conflict):
    """The rotation is decided: there is nothing to cancel."""

    code = "rotation_not_pending"
    detail = "The rotation is decided and cannot be cancelled. A rollback restores the key before."


class NoPreviousVersion(Conflict):
    """Nothing is kept that a rollback could restore."""

    code = "no_previous_version"
    detail = "No earlier key is kept that could be restored."


class VersionInUse(Conflict):
    """The key version is active, or on its way into use."""

    code = "version_in_use"
    detail = (
        "This key version is in use or on its way into use. Rotate or cancel first, or delete the credential."
    )


class TooManyVersions(Conflict):
    """One more version would push a kept one out of the secret store."""

    code = "too_many_versions"
    detail = (
        "Too many key versions lie between this one and the oldest kept. Destroy old versions, then rotate."
    )


class ModeIsManaged(Conflict):
    """There is no key of the organization's own to lease."""

    code = "mode_is_managed"
    detail = "The organization's usage is managed: there is no key of its own to lease."


class NotReady(Conflict):
    """Provider-backed work must not start. Carries what is in the way."""

    code = "not_ready"
    detail = "Provider-backed work must not start now; `blockers` says why."

    def __init__(self, blockers: Sequence[str]) -> None:
        super().__init__()
        self.blockers = tuple(blockers)


class TooManyLimits(Conflict):
    """The organization has as many spend limits as it may have."""

    code = "too_many_limits"
    detail = "The organization has as many spend limits as it may have. Delete one first."


class TooManyEndpoints(Conflict):
    """The organization has as many webhook endpoints as it may have."""

    code = "too_many_endpoints"
    detail = "The organization has as many webhook endpoints as it may have. Delete one first."


class ReservationEnded(Conflict):
    """The reservation was settled, or expired and is charged until its event comes."""

    code = "reservation_ended"
    detail = "The reservation was settled by its event, or has expired and is charged until its event comes."


class SpendLimitExceeded(ByokError):
    """A blocking spend limit leaves no room. `reason` is `limit_reached` or `price_unknown`."""

    code = "spend_limit_exceeded"
    detail = "A spend limit leaves no room for this; `limit_id` and `limit_name` say which, `reason` why."

    def __init__(self, *, limit_id: UUID, limit_name: str, reason: str) -> None:
        super().__init__()
        self.limit_id = limit_id
        self.limit_name = limit_name
        self.reason = reason


class StatementClosed(Conflict):
    """The statement of the month is closed."""

    code = "statement_closed"
    detail = "The statement of this month is closed and does not change any more."


class MonthNotOver(Conflict):
    """A month is closed when it is over."""

    code = "month_not_over"
    detail = "This month is not over yet, in UTC. It can be closed when it is."


class LeaseRequiresVault(ByokError):
    """Only Vault can hand a key over without it passing through us."""

    code = "lease_requires_vault"
    detail = "Leases need HashiCorp Vault or OpenBao: the embedded store cannot hand a key over without us."


class ConcurrentChange(Conflict):
    """Somebody else changed the resource between read and write."""

    code = "concurrent_change"
    detail = "The resource changed meanwhile. Read it again and repeat the request."


class IdempotencyInProgress(Conflict):
    """A request with the same Idempotency-Key is still running."""

    code = "idempotency_in_progress"
    detail = "A request with this Idempotency-Key is still running. Repeat it in a moment."


class IdempotencyKeyReused(ByokError):
    """The Idempotency-Key was used for another request."""

    code = "idempotency_key_reused"
    detail = "This Idempotency-Key was used for a different request. Use a new one."


class PreconditionFailed(ByokError):
    """If-Match names a revision that is not the present one."""

    code = "precondition_failed"
    detail = "The resource is not at the revision named by If-Match. Read it again."


class RateLimited(ByokError):
    """Too many requests of this kind in this minute."""

    code = "rate_limited"
    detail = "Too many requests of this kind for this organization. Wait, then repeat."

    def __init__(self, retry_after_seconds: int) -> None:
        super().__init__()
        self.retry_after_seconds = retry_after_seconds


class IngestionOverloaded(RateLimited):
    """Usage events come faster than the database takes them. None of the refused ones was kept."""

    code = "ingestion_overloaded"
    detail = "Usage events come faster than they can be taken. Wait, then repeat: events that were taken are found to be duplicates."

    def __init__(self, retry_after_seconds: int = 2) -> None:
        super().__init__(retry_after_seconds)


class MalformedJson(ByokError):
    """A body is no JSON in UTF-8."""

    code = "malformed_json"
    detail = "The body is not valid JSON."


class LineTooLong(ByokError):
    """A line of NDJSON is longer than a line may be. The lines before it were taken."""

    code = "payload_too_large"
    detail = "A line is longer than 64 KiB; `committed` says how many lines before it were taken."


class Unavailable(ByokError):
    """A dependency is down; nothing was lost. Repeat after `retry_after_seconds`; None: waiting alone mends nothing."""

    retry_after_seconds: int | None = 5


class DatabaseUnavailable(Unavailable):
    """The database cannot be reached or refuses work for now."""

    code = "database_unavailable"
    detail = "The database cannot be reached right now. Repeat the request in a moment."


class SecretStoreUnavailable(Unavailable):
    """The secret store cannot be reached, is sealed, or refuses work for now."""

    code = "secret_store_unavailable"
    detail = "The secret store cannot be reached right now. Repeat the request in a moment."


class IdentityProviderUnavailable(Unavailable):
    """The token issuer's keys cannot be fetched, and none known is fresh enough to trust."""

    code = "identity_provider_unavailable"
    detail = "Tokens cannot be verified right now. Repeat the request in a moment."
