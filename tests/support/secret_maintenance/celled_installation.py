"""An installation whose organizations live in different cells."""

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from app.database.cells.moves import move_organization
from app.secret_store.port import SecretStore
from tests.support.database.rows import change, fetch
from tests.support.secret_maintenance.installation import Installation

CELLS = ("public", "cell_1", "cell_2")


@dataclass(kw_only=True)
class CelledInstallation(Installation):
    """One organization in each cell. Rows are those of all cells."""

    owner: sa.URL

    async def fill(self, store: SecretStore | None = None) -> None:
        """Save everything in the first cell, and move one organization to each other cell."""
        await super().fill(store)
        organizations = list(dict.fromkeys(ref.organization_id for ref in [*self.refs, *self.secrets]))
        for organization, cell in zip(organizations, CELLS, strict=True):
            await move_organization(self.owner, organization, cell, lambda _: None)

    async def rows(self, table: str, where: str = "true") -> list[dict[str, Any]]:
        statements = [f"SELECT * FROM {cell}.{table} WHERE {where}" for cell in CELLS]
        return [row for statement in statements for row in await fetch(self.superuser, statement)]

    async def copy_secrets(self, source: str, target: str) -> None:
        """Leave the secrets of a cell in another one too, as a move does that is stopped."""
        await change(
            self.superuser, f"INSERT INTO {target}.sealed_secret SELECT * FROM {source}.sealed_secret"
        )
