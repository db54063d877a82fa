"""Converts rows of `credential_version` to masked records.

Lists convert many rows, so columns are read by position, which is faster than by name.
"""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from app.credentials.records import VersionRecord, VersionState
from app.credentials.validation_results import Reason, ValidationResult, ValidationStatus
from app.provider_url.endpoint import AuthStyle, ProviderEndpoint

_ENDPOINT = ("base_url", "messages_url", "auth_style", "workspace_id", "probe_model")
_RESULT = ("status", "reason", "checked_at", "request_id")
_OWN_COLUMNS = (
    "credential_id",
    "key_version",
    "state",
    "key_hint",
    "fingerprint",
    "created_at",
    "created_by",
    "activated_at",
    "retires_at",
    "destroyed_at",
    "last_used_at",
    "replaced_at",
    "leased_until",
)
_RECORD = (
    *_OWN_COLUMNS,
    *_ENDPOINT,
    *(f"definite_{name}" for name in _RESULT),
    *(f"latest_{name}" for name in _RESULT),
)
_OWN_VALUES = slice(0, len(_OWN_COLUMNS))
_ENDPOINT_VALUES = slice(_OWN_VALUES.stop, _OWN_VALUES.stop + len(_ENDPOINT))
_DEFINITE_VALUES = slice(_ENDPOINT_VALUES.stop, _ENDPOINT_VALUES.stop + len(_RESULT))
_LATEST_VALUES = slice(_DEFINITE_VALUES.stop, None)

# Several times faster than calling the enum.
_STATUSES = {status.value: status for status in ValidationStatus}
_REASONS: dict[str | None, Reason | None] = {None: None} | {reason.value: reason for reason in Reason}
_VERSION_STATES = {state.value: state for state in VersionState}
_AUTH_STYLES = {style.value: style for style in AuthStyle}


def version_columns(version: sa.FromClause, prefix: str = "") -> list[sa.Label[Any]]:
    """The columns for `version_record`, in its order. `prefix` makes names unique if a query joins several versions."""
    return [version.c[name].label(prefix + name) for name in _RECORD]


def endpoint_columns(version: sa.FromClause) -> list[sa.ColumnElement[Any]]:
    """The columns for `provider_endpoint`, in its order."""
    return [version.c[name] for name in _ENDPOINT]


def version_record(values: Sequence[Any]) -> VersionRecord:
    """Make a masked record from the values of `version_columns`."""
    (
        credential_id,
        key_version,
        state,
        key_hint,
        fingerprint,
        created_at,
        created_by,
        activated_at,
        retires_at,
        destroyed_at,
        last_used_at,
        replaced_at,
        leased_until,
    ) = values[_OWN_VALUES]
    definite, attempted = values[_DEFINITE_VALUES], values[_LATEST_VALUES]
    latest = _result(*attempted)
    return VersionRecord(
        credential_id=credential_id,
        key_version=key_version,
        state=_VERSION_STATES[state],
        endpoint=provider_endpoint(values[_ENDPOINT_VALUES]),
        key_hint=key_hint,
        fingerprint=fingerprint,
        result=latest if definite[0] is None or definite == attempted else _result(*definite),
        latest=latest,
        created_at=created_at,
        created_by=created_by,
        activated_at=activated_at,
        retires_at=retires_at,
        destroyed_at=destroyed_at,
        last_used_at=last_used_at,
        replaced_at=replaced_at,
        leased_until=leased_until,
    )


def provider_endpoint(values: Sequence[Any]) -> ProviderEndpoint:
    """Make a provider endpoint from the values of `endpoint_columns`."""
    base_url, messages_url, auth_style, workspace_id, probe_model = values
    return ProviderEndpoint(
        base_url=base_url,
        messages_url=messages_url,
        auth_style=_AUTH_STYLES[auth_style],
        workspace_id=workspace_id,
        probe_model=probe_model,
    )


def _result(status: str, reason: str | None, checked_at: Any, request_id: str | None) -> ValidationResult:
    return ValidationResult(
        status=_STATUSES[status],
        reason=_REASONS[reason],
        checked_at=checked_at,
        provider_request_id=request_id,
    )
