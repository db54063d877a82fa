"""What Vault answers, and why it cannot: no exception of its client and no text of its bodies goes further."""

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

log = structlog.get_logger(__name__)


class VaultReason(StrEnum):
    """Why Vault does not do its work, for logs and readiness."""

    SEALED = "sealed"
    STANDBY = "standby"
    QUOTA = "quota"
    UNREACHABLE = "unreachable"
    TIMEOUT = "timeout"
    PERMISSION_DENIED = "permission_denied"
    TOKEN_REVOKED = "token_revoked"  # noqa: S105  # the name of a reason
    LOGIN_REFUSED = "login_refused"
    MOUNT_MISSING = "mount_missing"
    NOT_SET_UP = "not_set_up"  # `byok vault-setup` has not run, or its work was undone
    UNEXPECTED = "unexpected_answer"


# What clients are told. The reasons are finer: they are for whoever operates Vault.
KINDS: Mapping[VaultReason, type[SecretStoreUnavailable]] = {
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
    """Vault's reason, told to clients as one of the kinds of `SecretStoreUnavailable`."""

    def __init__(self, reason: VaultReason) -> None:
        kind = KINDS[reason]
        self.code, self.detail, self.retry_after_seconds = kind.code, kind.detail, kind.retry_after_seconds
        super().__init__()
        self.reason = reason
        log.warning("vault_unavailable", reason=reason)


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer; status 0 and a failure where there was none. The body may hold secrets."""

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
    def passes_soon(self) -> bool:
        """A KV mount a moment old, or a replica that lags."""
        upgrading = self.status == HTTPStatus.BAD_REQUEST and self._says("upgrading")
        return upgrading or self.status == HTTPStatus.PRECONDITION_FAILED

    @property
    def is_denied(self) -> bool:
        return self.status in (401, 403)

    @property
    def is_cas_mismatch(self) -> bool:
        return self.status == HTTPStatus.BAD_REQUEST and self._says("did not match the current version")

    @property
    def is_missing_key(self) -> bool:
        """A transit key by that name is not there."""
        return self.status == HTTPStatus.BAD_REQUEST and self._says("encryption key not found")

    @property
    def trouble(self) -> VaultReason | None:
        """Why the question was not dealt with; None for successes, and for 400, 403 and 404 on the matter."""
        if self.failure is not None or self.is_success:
            return self.failure
        if self.status == HTTPStatus.SERVICE_UNAVAILABLE:
            return VaultReason.SEALED if self._says("sealed") else VaultReason.UNREACHABLE
        if self.status == HTTPStatus.NOT_FOUND:
            return VaultReason.MOUNT_MISSING if self._says("no handler for route") else None
        leaderless = self.status == HTTPStatus.INTERNAL_SERVER_ERROR and self._says("not active")
        if leaderless or self.passes_soon:
            return VaultReason.STANDBY
        if self.status in (400, 401, 403):
            return None
        return _OF_STATUS.get(self.status, VaultReason.UNEXPECTED)

    def _says(self, words: str) -> bool:
        errors = self.body.get("errors")
        return isinstance(errors, list) and any(words in str(error).lower() for error in errors)


# 307: a standby names the active node. It is not followed: the token goes to the address given, no other.
_OF_STATUS = {
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


def expect(answer: Answer, *others: int) -> Answer:
    """The answer, if it is a success or one of the other statuses.

    Raises:
        VaultUnavailable
    """
    if answer.is_success or answer.status in others:
        return answer
    if answer.is_missing_key:
        raise VaultUnavailable(VaultReason.NOT_SET_UP)
    raise VaultUnavailable(VaultReason.PERMISSION_DENIED if answer.is_denied else VaultReason.UNEXPECTED)


def part(answer: Answer, name: str) -> str:
    """One text of the data.

    Raises:
        VaultUnavailable
    """
    value = answer.data.get(name)
    if not isinstance(value, str):
        raise VaultUnavailable(VaultReason.UNEXPECTED)
    return value
