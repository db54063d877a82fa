"""Links that were not opened yet. The code of a link is stored only as a digest."""

import sqlalchemy as sa

from app.database.columns import instant, metadata, organization

export_link = sa.Table(
    "export_link",
    metadata,
    organization(),
    sa.Column("code_digest", sa.LargeBinary, primary_key=True),
    # What the link is for: the operation's path, and the query of the request that created the link.
    sa.Column("path", sa.Text, nullable=False),
    sa.Column("query", sa.Text, nullable=False),
    sa.Column("scope", sa.Text, nullable=False),
    sa.Column("subject", sa.Text, nullable=False),
    instant("expires_at"),
)
