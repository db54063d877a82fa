"""The job queue: narrow rows outside row-level security. Workers read the work itself per organization."""

import sqlalchemy as sa

from app.database.columns import UUID, instant, metadata, organization

job_queue = sa.Table(
    "job_queue",
    metadata,
    organization(),
    sa.Column("kind", sa.Text, primary_key=True),
    sa.Column("id", UUID, primary_key=True),
    instant("due_at"),
    sa.Index("ix_job_queue_due", "kind", "due_at"),
)
