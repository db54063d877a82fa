"""How long data is kept, and how a process runs."""

from datetime import timedelta

from pydantic import Field

from app.settings.groups.group import A_YEAR, Group
from app.settings.types import Duration, OptionalDuration


class AuditSettings(Group):
    """The audit log."""

    retention: OptionalDuration = Field(
        default=timedelta(days=731),
        ge=timedelta(days=90),
        le=100 * A_YEAR,
        description="How long audit events are kept. At least 90 days. `off` keeps them for ever.",
    )


class UsageSettings(Group):
    """The usage ledger."""

    # The minimum covers the age at which events are still accepted, plus a month because partitions are whole months.
    retention: Duration = Field(
        default=timedelta(days=400),
        ge=timedelta(days=70),
        le=100 * A_YEAR,
        description="How long usage events and their ids are kept. Whole months are deleted. At least 70 days.",
    )
    batches_at_once: int = Field(
        default=4,
        ge=1,
        le=100,
        description="Maximum number of concurrent ingestion transactions per process. At most half of"
        " `BYOK_DATABASE__POOL_SIZE` is used.",
    )
    patience: Duration = Field(
        default=timedelta(seconds=3),
        ge=timedelta(0),
        le=timedelta(seconds=30),
        description="How long a batch of usage events waits for an ingestion slot before it is rejected with 429"
        " `ingestion_overloaded`. At most 30 seconds.",
    )


class JobSettings(Group):
    """Background jobs."""

    # The minimum keeps an idle service from using a whole core.
    interval: Duration = Field(
        default=timedelta(seconds=5),
        ge=timedelta(seconds=1),
        le=timedelta(hours=1),
        description="Time between two searches of a background job for due work. 1 second to 1 hour.",
    )


class ProcessSettings(Group):
    """Limits of the process of `byok serve` and `byok worker`."""

    allow_core_dumps: bool = Field(
        default=False,
        description="Whether a crash may write a core dump, which contains keys in clear text, and whether debuggers of"
        " the same user may attach. Not allowed in production.",
    )
    keep_alive: Duration = Field(
        default=timedelta(seconds=65),
        ge=timedelta(seconds=1),
        le=timedelta(hours=1),
        description="How long a client's connection stays open without a request. It must be longer than the proxy in front"
        " keeps its connections to the service, so that the proxy closes them first: AWS's load balancer keeps them for 60"
        " seconds, Google's for 600. 1 second to 1 hour.",
    )
    connections: int | None = Field(
        default=None,
        ge=1,
        le=1_000_000,
        description="Maximum number of open client connections. At the limit, a new connection replaces the one that has"
        " waited longest without a request. If unset, the limit of open descriptors less 256 (or less half of it, if that is"
        " fewer), and at most 10,000.",
    )
