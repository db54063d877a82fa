"""What one organization may have and use."""

from datetime import timedelta

from pydantic import Field

from app.settings.groups.group import Group
from app.settings.types import Duration


class QuotaSettings(Group):
    """What one organization may have or use at a time, so that it cannot stop the others."""

    reads: int = Field(
        default=4,
        ge=1,
        le=100,
        description="Maximum number of usage reports, pages of usage events and of the audit log, statements and usage mode"
        " previews that run at the same time, per process.",
    )
    reads_per_organization: int = Field(
        default=1,
        ge=1,
        le=100,
        description="How many of these reads may belong to one organization. Each may use a processor of the database"
        " server, so leave it at least one for the rest.",
    )
    exports_per_organization: int = Field(
        default=4,
        ge=1,
        le=1000,
        description="Maximum number of CSV exports that one organization may download at the same time, per process.",
    )
    queue_timeout: Duration = Field(
        default=timedelta(seconds=3),
        ge=timedelta(0),
        le=timedelta(seconds=30),
        description="How long a report, an export, a statement, a preview or a page of the audit log waits for a slot before"
        " it is rejected with 429 `concurrency_limited`. At most 30 seconds.",
    )
    credentials: int = Field(
        default=200,
        ge=1,
        le=100_000,
        description="Maximum number of credentials per organization. Deleted ones do not count.",
    )
    spend_limits: int = Field(
        default=100, ge=1, le=1000, description="Maximum number of spend limits per organization."
    )
    webhook_endpoints: int = Field(
        default=10, ge=1, le=100, description="Maximum number of webhook endpoints per organization."
    )
    price_overrides: int = Field(
        default=200,
        ge=1,
        le=200,
        description="Maximum number of models with a price override per organization.",
    )
    usage_mode_changes: int = Field(
        default=1000,
        ge=1,
        le=100_000,
        description="Maximum number of usage mode changes of one organization within 35 days, in which events may still"
        " arrive for each of them. Beyond it, changes are rejected with 429 `rate_limited`.",
    )
    rotations: int = Field(
        default=5000,
        ge=1,
        le=1_000_000,
        description="Maximum number of rotations of one organization within 35 days, in which events may still arrive for each"
        " of their keys. Beyond it, rotations are rejected with 429 `rate_limited`.",
    )
    idempotency_keys: int = Field(
        default=1_000_000,
        ge=1,
        le=1_000_000_000,
        description="Maximum number of values of `Idempotency-Key` that are kept for one organization. They are kept for"
        " 24 hours. Beyond it, requests with a key are rejected with 429 `rate_limited`. Each process may exceed it by a"
        " thousandth.",
    )


class RateLimitSettings(Group):
    """Requests per organization and minute."""

    changes: int = Field(
        default=300,
        ge=1,
        le=1_000_000,
        description="All requests that change credentials, usage mode, spend limits, prices, webhooks or billing, in"
        " total, per organization, minute and process. The limits below hold within it.",
    )
    work: int = Field(
        default=60_000,
        ge=1,
        le=100_000_000,
        description="Spend reservations, leases and batches of usage events, in total, per organization, minute and"
        " process.",
    )

    credential_writes: int = Field(
        default=60,
        ge=1,
        le=1_000_000,
        description="Credentials created, keys rotated and validations requested, in total, per organization and minute.",
    )
    url_checks: int = Field(
        default=30,
        ge=1,
        le=1_000_000,
        description="Provider URLs checked and webhook endpoints created, in total, per organization and minute. All"
        " internal services together count as one organization when they check URLs.",
    )
    spend_limit_writes: int = Field(
        default=60,
        ge=1,
        le=1_000_000,
        description="Spend limits created, updated and deleted, in total, per organization and minute.",
    )
