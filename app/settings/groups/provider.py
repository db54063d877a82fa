"""What is sent to providers: probes, validations, rotations and relayed calls."""

from datetime import timedelta
from pathlib import Path

from pydantic import Field

from app.settings.groups.group import A_YEAR, Group
from app.settings.operator_urls import ProviderBaseUrl
from app.settings.types import (
    Duration,
    HostNames,
    MessagePatterns,
    MessagePatternsByName,
    Nameservers,
    Nat64Prefixes,
    OptionalDuration,
)


class ProviderSettings(Group):
    """Requests to the provider."""

    default_base_url: ProviderBaseUrl = Field(
        default="https://api.anthropic.com",
        description="Base URL of the endpoint for keys that are saved without `base_url`; `/v1/messages` or `/v1` at its"
        " end is removed. After a change, validations and the relay send older keys to the new value; leases contain the"
        " value at the time when the key was saved, until the key is rotated. Plain HTTP is allowed only for loopback addresses in development.",
    )
    ca_file: Path | None = Field(
        default=None,
        description="PEM file of certificates to trust for providers and webhook receivers, in addition to the public"
        " roots. If unset, only the public roots are trusted.",
    )
    allowed_hosts: HostNames = Field(
        default_factory=list,
        description="Comma-separated host names that may resolve to private addresses, for example an internal gateway."
        " HTTPS, port 443 and the rules for names still apply. Each start records them in the audit log of the"
        " organization `_operator`, and `byok doctor` warns about them. Empty means none.",
    )
    timeout: Duration = Field(
        default=timedelta(seconds=15),
        ge=timedelta(seconds=1),
        le=timedelta(seconds=15),
        description="Timeout of a whole validation, including its one retry. 1 to 15 seconds.",
    )
    message_patterns: MessagePatterns = Field(
        default_factory=MessagePatternsByName,
        description="JSON object of the words by which the service recognizes error messages of the provider, such as"
        ' `{"billing_problem": ["guthaben leer"]}`. `billing_problem`, `spend_cap`, `model_missing` and `billing_codes`'
        " (values of an error's `type`, `code` or `status`) extend the built-in words; `cors_refused`,"
        " `organization_disabled` and `workspace_required` replace them. `hosts` has `billing_problem` and"
        " `billing_codes` that apply to one host and its subdomains:"
        ' `{"hosts": {"llm.example.com": {"billing_codes": ["1113"]}}}`.',
    )


class DnsSettings(Group):
    """DNS lookups of the hosts of custom endpoints and webhooks. The system resolves the default endpoint's host."""

    nameservers: Nameservers = Field(
        default_factory=list,
        description="Comma-separated name servers: `192.0.2.1`, `192.0.2.1:5353` or `[2001:db8::1]:53`. Empty means the"
        " name servers of the system.",
    )
    nat64_prefixes: Nat64Prefixes = Field(
        default_factory=list,
        description="Comma-separated NAT64 prefixes of an IPv6-only network, such as `64:ff9b::/96`. The IPv4 address"
        " inside such an address is checked. Empty means that NAT64 addresses are refused.",
    )


class ValidationSettings(Group):
    """Periodic validation of keys."""

    every: OptionalDuration = Field(
        default=timedelta(hours=24),
        ge=timedelta(minutes=1),
        le=A_YEAR,
        description="Time between two periodic validations of an active key, varied at random by up to 10 %. 1 minute to"
        " 366 days. `off` disables periodic validation, but not retries after indeterminate results.",
    )
    concurrency: int = Field(
        default=16, ge=1, le=200, description="Maximum number of concurrent periodic validations per process."
    )
    concurrency_per_organization: int = Field(
        default=4,
        ge=1,
        le=200,
        description="Maximum number of concurrent periodic validations per process and organization.",
    )
    concurrency_per_host: int = Field(
        default=4,
        ge=1,
        le=200,
        description="Maximum number of concurrent periodic validations per process and host of custom endpoints.",
    )


class RotationSettings(Group):
    """Rotation of keys."""

    retention: Duration = Field(
        default=timedelta(hours=72),
        le=A_YEAR,
        description="How long a replaced key is kept for a rollback before it is destroyed. At most 366 days.",
    )


class RelaySettings(Group):
    """The relay for Anthropic's Messages API."""

    managed: bool = Field(
        default=False,
        description="Whether organizations in mode `managed` may use the relay with the operator's key, which is the"
        " credential that the usage mode of the organization `_operator` names. Each of them also needs a subscription.",
    )
    slots: int = Field(
        default=1000, ge=1, le=100_000, description="How many requests an instance relays at the same time."
    )
    slots_per_organization: int = Field(
        default=64, ge=1, le=100_000, description="How many of them may belong to one organization."
    )
    body_memory: int = Field(
        default=256,
        ge=32,
        le=65_536,
        description="Memory for request bodies that were not sent on yet, in MiB per instance.",
    )
    body_memory_per_organization: int | None = Field(
        default=None,
        ge=32,
        le=65_536,
        description="How much of it one organization may use, in MiB. If unset, a quarter, and at least 32 MiB.",
    )
    body_timeout: Duration = Field(
        default=timedelta(seconds=300),
        ge=timedelta(seconds=1),
        le=timedelta(hours=1),
        description="How long a request body may take to arrive.",
    )
    idle_timeout: Duration = Field(
        default=timedelta(seconds=620),
        ge=timedelta(seconds=1),
        le=timedelta(hours=2),
        description="How long a provider may send nothing. SDKs wait for 600 s.",
    )
    total_timeout: Duration = Field(
        default=timedelta(hours=2),
        ge=timedelta(seconds=1),
        le=timedelta(hours=2),
        description="The longest time of one call.",
    )
    unread_timeout: Duration = Field(
        default=timedelta(seconds=120),
        ge=timedelta(seconds=1),
        le=timedelta(hours=1),
        description="How long a client may leave its response unread.",
    )
    drain: Duration = Field(
        default=timedelta(seconds=30),
        ge=timedelta(0),
        le=timedelta(hours=2),
        description="How long a stopping instance waits for calls in progress before it ends them.",
    )
