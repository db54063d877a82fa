"""Rows of `credential_version` as masked records. Lists are made of these, so columns go by place, not by name."""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from app.credentials.records import VersionRecord, VersionState
from app.credentials.verdicts import Reason, ValidationStatus, Verdict
from app.provider_url.endpoint import AuthStyle, ProviderEndpoint

_DESTINATION = ("base_url", "messages_url", "auth_style", "workspace_id", "probe_model")
_VERDICT = ("status", "reason", "checked_at", "request_id")
_RECORD = (
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
    *_DESTINATION,
    *(f"definite_{name}" for name in _VERDICT),
    *(f"latest_{name}" for name in _VERDICT),
)

# Several times as fast as calling the Enum.
_STATUSES = {status.value: status for status in ValidationStatus}
_REASONS: dict[str | None, Reason | None] = {None: None} | {reason.value: reason for reason in Reason}
_VERSION_STATES = {state.value: state for state in VersionState}
_AUTH_STYLES = {style.value: style for style in AuthStyle}


def version_columns(version: sa.FromClause, prefix: str = "") -> list[sa.Label[Any]]:
    """What `version_record` takes, in its order; `prefix` keeps names apart where versions are joined."""
    return [version.c[name].label(prefix + name) for name in _RECORD]


def destination_columns(version: sa.FromClause) -> list[sa.ColumnElement[Any]]:
    """What `destination` takes, in its order."""
    return [version.c[name] for name in _DESTINATION]


def version_record(values: Sequence[Any]) -> VersionRecord:
    """A masked record from the values of `version_columns`."""
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
        base_url,
        messages_url,
        auth_style,
        workspace_id,
        probe_model,
        definite_status,
        definite_reason,
        definite_checked_at,
        definite_request_id,
        *latest_columns,
    ) = values
    latest = _verdict(*latest_columns)
    return VersionRecord(
        credential_id=credential_id,
        key_version=key_version,
        state=_VERSION_STATES[state],
        destination=destination((base_url, messages_url, auth_style, workspace_id, probe_model)),
        key_hint=key_hint,
        fingerprint=fingerprint,
        verdict=latest
        if definite_status is None
        else _verdict(definite_status, definite_reason, definite_checked_at, definite_request_id),
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


def destination(values: Sequence[Any]) -> ProviderEndpoint:
    """Where a key may be sent, from the values of `destination_columns`."""
    base_url, messages_url, auth_style, workspace_id, probe_model = values
    return ProviderEndpoint(
        base_url=base_url,
        messages_url=messages_url,
        auth_style=_AUTH_STYLES[auth_style],
        workspace_id=workspace_id,
        probe_model=probe_model,
    )


def _verdict(status: str, reason: str | None, checked_at: Any, request_id: str | None) -> Verdict:
    return Verdict(
        status=_STATUSES[status],
        reason=_REASONS[reason],
        checked_at=checked_at,
        provider_request_id=request_id,
    )
