"""SQL of the relay: who pays now, and with which key."""

from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from app.credentials.records import CredentialState
from app.credentials.tables import credential_version as v
from app.credentials.tables import provider_credential as c
from app.credentials.validation_results import ValidationStatus
from app.database.repository import Repository
from app.database.statements import Query, Row
from app.provider_url.endpoint import AuthStyle, ProviderEndpoint
from app.readiness.readiness import Blocker, blockers_of
from app.relay.records import Destination
from app.spend_limits.counter_queries import is_limit_reached
from app.usage_mode.modes import INITIAL_MODE, UsageMode
from app.usage_mode.repository import ACTIVE_MODE
from app.usage_mode.tables import usage_mode_change as m

_ORGANIZATION = sa.bindparam("organization_id", type_=sa.Text)
_active_change = ACTIVE_MODE.subquery("active_change")
# One row, even for an organization that never switched its usage mode.
_organization = sa.select(_ORGANIZATION.label("organization_id")).subquery("organization")
_mode = sa.func.coalesce(_active_change.c.mode, sa.literal_column(f"'{INITIAL_MODE.mode}'"))
_next_change = (
    sa.select(sa.func.min(m.c.effective_from))
    .where(m.c.organization_id == _ORGANIZATION, m.c.effective_from > sa.func.statement_timestamp())
    .scalar_subquery()
)
_price_lists = sa.table("price_override_list", sa.column("organization_id"))
_has_price_overrides = sa.exists().where(_price_lists.c.organization_id == _ORGANIZATION)
_ENDPOINT = ("base_url", "messages_url", "auth_style", "workspace_id", "probe_model")
_payer = sa.select(
    _mode.label("mode"),
    _active_change.c.credential_id,
    c.c.state,
    v.c.key_version,
    v.c.store_version,
    v.c.definite_status,
    v.c.leased_until,
    *(v.c[name] for name in _ENDPOINT),
    _next_change.label("next_change_at"),
    _has_price_overrides.label("has_price_overrides"),
    sa.func.clock_timestamp().label("now"),
).select_from(
    _organization.outerjoin(_active_change, sa.true())
    .outerjoin(
        c,
        sa.and_(
            c.c.organization_id == _active_change.c.organization_id,
            c.c.id == _active_change.c.credential_id,
        ),
    )
    .outerjoin(
        v,
        sa.and_(
            v.c.organization_id == c.c.organization_id,
            v.c.credential_id == c.c.id,
            v.c.key_version == c.c.current_key_version,
        ),
    )
)
_PAYER = Query(_payer.add_columns(sa.literal_column("false").label("is_limit_reached")))
_PAYER_WITH_LIMITS = Query(
    _payer.add_columns(is_limit_reached(_organization.c.organization_id, _mode).label("is_limit_reached"))
)
_EXTEND_USE = Query(
    sa.update(v)
    .where(
        v.c.organization_id == _ORGANIZATION,
        v.c.credential_id == sa.bindparam("credential_id", type_=v.c.credential_id.type),
        v.c.key_version == sa.bindparam("key_version_", type_=sa.Integer),
        v.c.state == sa.literal_column("'active'"),
    )
    .values(
        leased_until=sa.func.greatest(v.c.leased_until, sa.bindparam("until", type_=v.c.leased_until.type))
    )
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Payer:
    """Who pays now, with which key, and what blocks the work.

    Without `destination`, the mode is `managed`, no credential is named, or its keys are gone. `next_change_at` is when
    the next scheduled usage mode takes effect.

    Attributes:
        has_price_overrides: whether prices differ from the price list; exact under the ledger lock.
    """

    mode: UsageMode
    destination: Destination | None
    blockers: tuple[Blocker, ...]
    next_change_at: datetime | None
    has_price_overrides: bool
    leased_until: datetime | None
    read_at: datetime


class PayerRepository(Repository):
    """Who pays for the work of one organization."""

    async def payer(self, *, with_limits: bool = False) -> Payer:
        """Read it from one snapshot. With limits, a limit that is used up blocks too."""
        query = _PAYER_WITH_LIMITS if with_limits else _PAYER
        return _payer_of(
            await self._session.one(query, organization_id=self._organization_id), self._organization_id
        )

    async def extend_use(self, destination: Destination, *, until: datetime) -> bool:
        """Let the key version count as used until then. Returns False if it is not active any more."""
        extended = await self._session.execute(
            _EXTEND_USE,
            organization_id=self._organization_id,
            credential_id=destination.credential_id,
            key_version_=destination.key_version,
            until=until,
        )
        return bool(extended)


def _payer_of(row: Row, organization_id: str) -> Payer:
    mode = UsageMode(row["mode"])
    status = row["definite_status"]
    return Payer(
        mode=mode,
        destination=_destination(row, organization_id)
        if mode is not UsageMode.MANAGED and row["store_version"] is not None
        else None,
        blockers=blockers_of(
            mode,
            None if row["state"] is None else CredentialState(row["state"]),
            None if status is None else ValidationStatus(status),
            is_limit_reached=row["is_limit_reached"],
        ),
        next_change_at=row["next_change_at"],
        has_price_overrides=row["has_price_overrides"],
        leased_until=row["leased_until"],
        read_at=row["now"],
    )


def _destination(row: Row, organization_id: str) -> Destination:
    return Destination(
        organization_id=organization_id,
        credential_id=row["credential_id"],
        key_version=row["key_version"],
        store_version=row["store_version"],
        endpoint=ProviderEndpoint(
            base_url=row["base_url"],
            messages_url=row["messages_url"],
            auth_style=AuthStyle(row["auth_style"]),
            workspace_id=row["workspace_id"],
            probe_model=row["probe_model"],
        ),
    )
