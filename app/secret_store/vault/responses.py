"""Vault's responses, and why a request failed. No exception or text of Vault's client leaves this package."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from http import HTTPStatus
from typing import Any

import structlog

from app.core.errors import SecretStoreUnavailable
from app.core.secret_store_errors import (
    SecretStoreBusy,
    SecretStoreLoginRefused,
    SecretStoreMisconfigured,
    SecretStorePermissionDenied,
    SecretStoreSealed,
    SecretStoreStandby,
    SecretStoreTimeout,
)

log = structlog.get_logger("byok.secret_store")


class VaultReason(StrEnum):
    """Why Vault did not execute a request. Shown in logs and by the operator's commands."""

    SEALED = "sealed"
    STANDBY = "standby"
    QUOTA = "quota"
    UNREACHABLE = "unreachable"
    TIMEOUT = "timeout"
    PERMISSION_DENIED = "permission_denied"
    TOKEN_REVOKED = "token_revoked"  # noqa: S105  # the name of a reason
    LOGIN_REFUSED = "login_refused"
    MOUNT_MISSING = "mount_missing"
    NOT_SET_UP = "not_set_up"  # `byok vault-setup` has not run, or its result was removed
    UNEXPECTED = "unexpected_answer"


# The errors that clients get. The reasons are more precise: they are for the operator of Vault.
ERRORS_BY_REASON: Mapping[VaultReason, type[SecretStoreUnavailable]] = {
    VaultReason.SEALED: SecretStoreSealed,
    VaultReason.STANDBY: SecretStoreStandby,
    VaultReason.QUOTA: SecretStoreBusy,
    VaultReason.UNREACHABLE: SecretStoreUnavailable,
    VaultReason.TIMEOUT: SecretStoreTimeout,
    VaultReason.PERMISSION_DENIED: SecretStorePermissionDenied,
    VaultReason.TOKEN_REVOKED: SecretStoreLoginRefused,
    VaultReason.LOGIN_REFUSED: SecretStoreLoginRefused,
    VaultReason.MOUNT_MISSING: SecretStoreMisconfigured,
    VaultReason.NOT_SET_UP: SecretStoreMisconfigured,
    VaultReason.UNEXPECTED: SecretStoreUnavailable,
}


class VaultUnavailable(SecretStoreUnavailable):
    """A failed request to Vault. Clients see the error that `ERRORS_BY_REASON` assigns to its reason."""

    def __init__(self, reason: VaultReason) -> None:
        error = ERRORS_BY_REASON[reason]
        self.code, self.detail, self.retry_after_seconds = error.code, error.detail, error.retry_after_seconds
        super().__init__()
        self.reason = reason
        log.warning("vault_unavailable", reason=reason)


@dataclass(frozen=True, slots=True)
class VaultResponse:
    """An HTTP response. Without one, the status is 0 and `failure` is set. The body may hold secrets."""

    status: int
    body: Mapping[str, Any] = field(default_factory=dict, repr=False)
    failure: VaultReason | None = None

    @property
    def is_success(self) -> bool:
        return self.status in (200, 204)

    @property
    def data(self) -> Mapping[str, Any]:
        return _mapping(self.body.get("data"))

    @property
    def auth(self) -> Mapping[str, Any]:
        return _mapping(self.body.get("auth"))

    @property
    def wrap_info(self) -> Mapping[str, Any]:
        return _mapping(self.body.get("wrap_info"))

    @property
    def is_transient(self) -> bool:
        """Whether a retry helps: the KV mount was just created, or a replica lags."""
        upgrading = self.status == HTTPStatus.BAD_REQUEST and self._has_error("upgrading")
        return upgrading or self.status == HTTPStatus.PRECONDITION_FAILED

    @property
    def is_denied(self) -> bool:
        return self.status in (401, 403)

    @property
    def is_cas_mismatch(self) -> bool:
        return self.status == HTTPStatus.BAD_REQUEST and self._has_error("did not match the current version")

    @property
    def is_missing_key(self) -> bool:
        """Whether the transit key does not exist."""
        return self.status == HTTPStatus.BAD_REQUEST and self._has_error("encryption key not found")

    @property
    def unavailable_reason(self) -> VaultReason | None:
        """Why Vault did not process the request. None for a success and for a 400, 401, 403 or 404 about its content."""
        if self.failure is not None or self.is_success:
            return self.failure
        if self.status == HTTPStatus.SERVICE_UNAVAILABLE:
            return VaultReason.SEALED if self._has_error("sealed") else VaultReason.UNREACHABLE
        if self.status == HTTPStatus.NOT_FOUND:
            return VaultReason.MOUNT_MISSING if self._has_error("no handler for route") else None
        leaderless = self.status == HTTPStatus.INTERNAL_SERVER_ERROR and self._has_error("not active")
        if leaderless or self.is_transient:
            return VaultReason.STANDBY
        if self.status in (400, 401, 403):
            return None
        return _REASONS_BY_STATUS.get(self.status, VaultReason.UNEXPECTED)

    def _has_error(self, text: str) -> bool:
        errors = self.body.get("errors")
        return isinstance(errors, list) and any(text in str(error).lower() for error in errors)


# 307: a standby names the active node. The redirect is not followed, because the token is only for the set address.
_REASONS_BY_STATUS = {
    307: VaultReason.STANDBY,
    429: VaultReason.QUOTA,
    472: VaultReason.STANDBY,
    473: VaultReason.STANDBY,
    501: VaultReason.SEALED,  # not initialized
    502: VaultReason.UNREACHABLE,
    504: VaultReason.UNREACHABLE,
}


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def expect_success(response: VaultResponse, *accepted: int) -> VaultResponse:
    """Return the response if it is a success or has one of the accepted statuses.

    Raises:
        VaultUnavailable: for any other response.
    """
    if response.is_success or response.status in accepted:
        return response
    if response.is_missing_key:
        raise VaultUnavailable(VaultReason.NOT_SET_UP)
    raise VaultUnavailable(VaultReason.PERMISSION_DENIED if response.is_denied else VaultReason.UNEXPECTED)


def text_field(response: VaultResponse, name: str) -> str:
    """Return one string from the response's data.

    Raises:
        VaultUnavailable: the data has no string with that name.
    """
    value = response.data.get(name)
    if not isinstance(value, str):
        raise VaultUnavailable(VaultReason.UNEXPECTED)
    return value
