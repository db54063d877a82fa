"""Errors of the secret store for which the cause is known, each with a separate problem code.

They refine `secret_store_unavailable` and have the same status, so a client that knows only
that code may treat them all alike.
"""

from app.core.errors import SecretStoreUnavailable


class SecretStoreSealed(SecretStoreUnavailable):
    """The Vault server is sealed: it runs, but cannot decrypt its storage until an operator runs `operator unseal`."""

    code = "secret_store_sealed"
    detail = "The Vault server is sealed. Its operator must run `operator unseal`. Then repeat the request."
    retry_after_seconds = 30


class SecretStoreTimeout(SecretStoreUnavailable):
    """The store did not respond within the deadline."""

    code = "secret_store_timeout"
    detail = "The secret store did not respond within the deadline. Repeat the request in a moment."


class SecretStoreStandby(SecretStoreUnavailable):
    """A fail-over is under way, or the server is a standby that does not serve requests."""

    code = "secret_store_standby"
    detail = "The secret store is failing over to another server. Repeat the request in a moment."


class SecretStoreBusy(SecretStoreUnavailable):
    """The store's rate limit is exceeded."""

    code = "secret_store_busy"
    detail = "The secret store accepts no more requests at the moment. Repeat the request in a moment."


class SecretStoreLoginRefused(SecretStoreUnavailable):
    """The service's token was revoked or has expired, and the store refuses a new login."""

    code = "secret_store_login_refused"
    detail = "The secret store refuses this service's login. Its operator must fix the login."
    retry_after_seconds = None


class SecretStorePermissionDenied(SecretStoreUnavailable):
    """The service is logged in, but the store's policy does not permit the request."""

    code = "secret_store_permission_denied"
    detail = "The secret store does not permit this service to do that. Its operator must fix the policy."
    retry_after_seconds = None


class SecretStoreMisconfigured(SecretStoreUnavailable):
    """A mount or key that the service needs does not exist."""

    code = "secret_store_misconfigured"
    detail = "The secret store is not set up for this service. Its operator must complete the setup."
    retry_after_seconds = None


SECRET_STORE_ERRORS: tuple[type[SecretStoreUnavailable], ...] = (
    SecretStoreSealed,
    SecretStoreTimeout,
    SecretStoreStandby,
    SecretStoreBusy,
    SecretStoreLoginRefused,
    SecretStorePermissionDenied,
    SecretStoreMisconfigured,
)
