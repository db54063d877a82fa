"""Rows of `credential_version` as masked records."""

from collections.abc import Mapping
from operator import itemgetter
from typing import Any

from app.domain.credentials import AuthStyle, Destination, VersionRecord, VersionState
from app.domain.validation import Reason, ValidationStatus, Verdict

_VERSION_COLUMNS = (
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
_DESTINATION_COLUMNS = ("base_url", "messages_url", "auth_style", "workspace_id", "probe_model")
_VERDICT_COLUMNS = ("status", "reason", "checked_at", "request_id")


class _Picker:
    """Reads one version from a row whose columns bear a prefix. Lists are made of these: it looks each name up once."""

    def __init__(self, prefix: str) -> None:
        self.version = itemgetter(*(prefix + name for name in _VERSION_COLUMNS))
        self.destination = itemgetter(*(prefix + name for name in _DESTINATION_COLUMNS))
        self.definite = itemgetter(*(f"{prefix}definite_{name}" for name in _VERDICT_COLUMNS))
        self.latest = itemgetter(*(f"{prefix}latest_{name}" for name in _VERDICT_COLUMNS))


_PICKERS = {prefix: _Picker(prefix) for prefix in ("", "v_", "p_")}
# Several times as fast as calling the Enum.
_STATUSES = {status.value: status for status in ValidationStatus}
_REASONS: dict[str | None, Reason | None] = {None: None} | {reason.value: reason for reason in Reason}
_VERSION_STATES = {state.value: state for state in VersionState}
_AUTH_STYLES = {style.value: style for style in AuthStyle}


def version_record(row: Mapping[str, Any], prefix: str = "") -> VersionRecord:
    """A masked record from the columns of `credential_version`, each with `prefix`: none, `v_` or `p_`."""
    pick = _PICKERS[prefix]
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
    ) = pick.version(row)
    base_url, messages_url, auth_style, workspace_id, probe_model = pick.destination(row)
    latest = _verdict(pick.latest(row))
    definite = pick.definite(row)
    return VersionRecord(
        credential_id=credential_id,
        key_version=key_version,
        state=_VERSION_STATES[state],
        destination=Destination(
            base_url=base_url,
            messages_url=messages_url,
            auth_style=_AUTH_STYLES[auth_style],
            workspace_id=workspace_id,
            probe_model=probe_model,
        ),
        key_hint=key_hint,
        fingerprint=fingerprint,
        verdict=latest if definite[0] is None else _verdict(definite),
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


def _verdict(columns: tuple[Any, ...]) -> Verdict:
    status, reason, checked_at, request_id = columns
    return Verdict(
        status=_STATUSES[status],
        reason=_REASONS[reason],
        checked_at=checked_at,
        provider_request_id=request_id,
    )
