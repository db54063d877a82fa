"""Why the secret store does not do its work, where it can tell: each kind has a code of its own.

A client that knows `secret_store_unavailable` alone may treat them all as that one: they are
refinements of it, and answered with the same status.
"""

from app.core.errors import SecretStoreUnavailable


class SecretStoreSealed(SecretStoreUnavailable):
    """It runs and cannot open its own storage. Passes when an operator unseals it."""

    code = "secret_store_sealed"
    detail = "The secret store is sealed. Its operator has to unseal it; then repeat the request."
    retry_after_seconds = 30


class SecretStoreTimeout(SecretStoreUnavailable):
    """It took longer than we wait."""

    code = "secret_store_timeout"
    detail = "The secret store did not answer in time. Repeat the request in a moment."


class SecretStoreStandby(SecretStoreUnavailable):
    """A fail-over is under way, or we talk to a server that may not answer."""

    code = "secret_store_standby"
    detail = "The secret store is changing over to another server. Repeat the request in a moment."


class SecretStoreBusy(SecretStoreUnavailable):
    """It limits how often it may be asked."""

    code = "secret_store_busy"
    detail = "The secret store takes no more requests right now. Repeat the request in a moment."


class SecretStoreLoginRefused(SecretStoreUnavailable):
    """Our token is revoked or expired, and no new one is to be had."""

    code = "secret_store_login_refused"
    detail = "The secret store does not let this service log in. Its operator has to mend that."
    retry_after_seconds = None


class SecretStorePermissionDenied(SecretStoreUnavailable):
    """We are logged in, and the policy does not allow what we ask."""

    code = "secret_store_permission_denied"
    detail = "The secret store does not permit this service to do that. Its operator has to mend that."
    retry_after_seconds = None


class SecretStoreMisconfigured(SecretStoreUnavailable):
    """A mount or a key that we need is not there."""

    code = "secret_store_misconfigured"
    detail = "The secret store is not set up for this service. Its operator has to mend that."
    retry_after_seconds = None


SECRET_STORE_TROUBLES: tuple[type[SecretStoreUnavailable], ...] = (
    SecretStoreSealed,
    SecretStoreTimeout,
    SecretStoreStandby,
    SecretStoreBusy,
    SecretStoreLoginRefused,
    SecretStorePermissionDenied,
    SecretStoreMisconfigured,
)
