"""Price override lists with the time from which they are active. Append-only, so that past rows keep their price."""

import sqlalchemy as sa

from app.database.columns import instant, metadata, organization


def _rate(name: str, *, nullable: bool) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger, nullable=nullable)


# Numbered from 1 in the order in which lists are set. A list without rows in price_override removes all overrides.
price_override_list = sa.Table(
    "price_override_list",
    metadata,
    organization(),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    instant("effective_from"),
    instant("created_at"),
    sa.Column("created_by", sa.Text, nullable=False),
    sa.CheckConstraint("effective_from >= created_at", name="never_in_the_past"),
)

# In pico-USD per token, and per web search. Null: the class has no price.
price_override = sa.Table(
    "price_override",
    metadata,
    organization(),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("model", sa.Text, primary_key=True),
    _rate("uncached_input", nullable=False),
    _rate("cache_write_5m", nullable=True),
    _rate("cache_write_1h", nullable=True),
    _rate("cache_read", nullable=True),
    _rate("output", nullable=False),
    _rate("web_search", nullable=True),
    sa.ForeignKeyConstraint(
        ["organization_id", "number"],
        ["price_override_list.organization_id", "price_override_list.number"],
    ),
    sa.CheckConstraint(
        "least(uncached_input, cache_write_5m, cache_write_1h, cache_read, output, web_search) >= 0",
        name="not_negative",
    ),
)
