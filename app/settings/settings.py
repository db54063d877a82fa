"""All settings of the service."""

from enum import StrEnum
from pathlib import Path
from typing import Literal

from pydantic import Field

from app.database.url import LARGEST_PORT
from app.settings.groups.access import AuthSettings, CorsSettings, PageSettings
from app.settings.groups.group import Group
from app.settings.groups.limits import QuotaSettings, RateLimitSettings
from app.settings.groups.operation import AuditSettings, JobSettings, ProcessSettings, UsageSettings
from app.settings.groups.provider import (
    DnsSettings,
    ProviderSettings,
    RelaySettings,
    RotationSettings,
    ValidationSettings,
)
from app.settings.groups.storage import DatabaseSettings, SecretStoreSettings, VaultSettings
from app.settings.types import ListeningHost


class Environment(StrEnum):
    """Development may use the embedded defaults; production must not."""

    DEVELOPMENT = "development"
    PRODUCTION = "production"


class Settings(Group):
    """All settings of the service."""

    environment: Environment = Field(
        default=Environment.DEVELOPMENT,
        description="`development` may use the embedded defaults and plain HTTP on loopback addresses. `production`"
        " refuses them.",
    )
    host: ListeningHost = Field(
        default="127.0.0.1", description="Address or host name of this machine to listen on."
    )
    allow_remote_development: bool = Field(
        default=False,
        description="Whether the environment `development`, whose tokens are signed with a key in the data directory, may"
        " listen on an address that other machines can reach. Production needs no such consent.",
    )
    port: int = Field(default=8000, ge=1, le=LARGEST_PORT, description="TCP port to listen on.")
    data_dir: Path = Field(
        default=Path(".data"),
        description="Directory of the keyset file, the embedded development key and the embedded PostgreSQL.",
    )
    debug: bool = Field(
        default=False, description="Whether to log at the level `debug`. Not allowed in production."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Lowest level that is logged. `debug` is not allowed in production."
    )
    log_format: Literal["auto", "json", "console"] = Field(
        default="auto",
        description="`json` logs one JSON object per line, `console` logs text for people. `auto` is `console` in"
        " development on a terminal, and `json` otherwise.",
    )
    metrics_port: int | None = Field(
        default=None,
        ge=1,
        le=LARGEST_PORT,
        description="TCP port on which `byok worker` serves `/metrics` and `/livez`, at `BYOK_HOST`. If unset, it serves"
        " neither. `byok serve` has both on `BYOK_PORT`.",
    )
    database: DatabaseSettings = Field(default_factory=DatabaseSettings)
    vault: VaultSettings = Field(default_factory=VaultSettings)
    secret_store: SecretStoreSettings = Field(default_factory=SecretStoreSettings)
    auth: AuthSettings = Field(default_factory=AuthSettings)
    provider: ProviderSettings = Field(default_factory=ProviderSettings)
    dns: DnsSettings = Field(default_factory=DnsSettings)
    cors: CorsSettings = Field(default_factory=CorsSettings)
    page: PageSettings = Field(default_factory=PageSettings)
    rotation: RotationSettings = Field(default_factory=RotationSettings)
    rate_limits: RateLimitSettings = Field(default_factory=RateLimitSettings)
    validation: ValidationSettings = Field(default_factory=ValidationSettings)
    usage: UsageSettings = Field(default_factory=UsageSettings)
    relay: RelaySettings = Field(default_factory=RelaySettings)
    jobs: JobSettings = Field(default_factory=JobSettings)
    process: ProcessSettings = Field(default_factory=ProcessSettings)
    quotas: QuotaSettings = Field(default_factory=QuotaSettings)
    audit: AuditSettings = Field(default_factory=AuditSettings)

    @property
    def is_production(self) -> bool:
        return self.environment is Environment.PRODUCTION

    @property
    def is_page_enabled(self) -> bool:
        return not self.is_production if self.page.enabled is None else self.page.enabled

    def chosen_log_format(self, *, is_terminal: bool) -> Literal["json", "console"]:
        """The format of logs, which `auto` leaves to the environment and the terminal."""
        if self.log_format != "auto":
            return self.log_format
        return "console" if is_terminal and not self.is_production else "json"

    @property
    def messages_url(self) -> str:
        return f"{self.provider.default_base_url}/v1/messages"
