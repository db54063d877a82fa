"""Settings: environment variables with the prefix BYOK_, grouped by `__`, also read from `.env`.

No secret has a default. A wrong value stops start-up with one line naming the variable.
"""

import os
import re
import ssl
from collections.abc import Iterator, Mapping
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal, get_origin

from pydantic import BaseModel, ConfigDict, Field, SecretStr, StringConstraints, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from app.settings.types import (
    LARGEST_PORT,
    DatabaseUrl,
    Duration,
    HostNames,
    ListeningHost,
    MessagePatterns,
    Nameservers,
    Nat64Prefixes,
    OptionalDuration,
    Origins,
    ProviderBaseUrl,
    is_loopback,
    split_url,
)

PREFIX = "BYOK_"

# Longer than anybody waits, and short enough to be added to a date.
_A_YEAR = timedelta(days=366)

Text = Annotated[str, StringConstraints(min_length=1)]


class SettingsRefused(Exception):
    """The settings cannot be used. Each line names a variable and says how to mend it."""

    def __init__(self, *lines: str) -> None:
        super().__init__("\n".join(lines))

    @classmethod
    def of(cls, variable: str, message: str) -> "SettingsRefused":
        """One variable, named without the prefix."""
        return cls(f"{PREFIX}{variable}: {message}")


class Environment(StrEnum):
    """Development runs on embedded defaults; production refuses them."""

    DEVELOPMENT = "development"
    PRODUCTION = "production"


class Group(BaseModel):
    """A group of settings."""

    model_config = ConfigDict(
        extra="ignore", frozen=True, arbitrary_types_allowed=True, hide_input_in_errors=True
    )


class DatabaseSettings(Group):
    """Where rows rest. Without a URL: an embedded PostgreSQL under the data directory."""

    url: DatabaseUrl | None = None
    migration_url: DatabaseUrl | None = None
    pool_size: int = Field(default=10, ge=1, le=200)
    timeout: Duration = Field(default=timedelta(seconds=5), ge=timedelta(seconds=1), le=timedelta(hours=1))


class VaultSettings(Group):
    """HashiCorp Vault or OpenBao. Without an address: the embedded sealed store."""

    address: str | None = None
    namespace: str | None = None
    ca_file: Path | None = None
    kv_mount: Text = "byok"
    transit_mount: Text = "byok-transit"
    auth_method: Literal["token", "approle", "kubernetes", "jwt"] = "token"
    token: SecretStr | None = None
    role_id: str | None = None
    secret_id: SecretStr | None = None
    role: str | None = None
    jwt_file: Path | None = None
    roles: dict[str, dict[str, Any]] = Field(default_factory=dict, repr=False)  # holds secret ids


class SecretStoreSettings(Group):
    """Whether production may use the embedded store."""

    allow_embedded: bool = False


class AuthSettings(Group):
    """Who signs the callers' tokens. Without a JWKS URL: an embedded development key."""

    issuer: Text | None = None
    audience: Text = "byok"
    jwks_url: str | None = None
    # An expired token stays good for so long.
    clock_skew: Duration = Field(default=timedelta(seconds=30), ge=timedelta(0), le=timedelta(minutes=5))


class ProviderSettings(Group):
    """The provider's default endpoint, set by the operator and therefore trusted."""

    default_base_url: ProviderBaseUrl = "https://api.anthropic.com"
    ca_file: Path | None = None
    allowed_hosts: HostNames = Field(default_factory=list)
    timeout: Duration = Field(
        default=timedelta(seconds=15), ge=timedelta(seconds=1), le=timedelta(seconds=15)
    )
    message_patterns: MessagePatterns = Field(default_factory=dict)


class DnsSettings(Group):
    """Which name servers to ask; none: those of the system."""

    nameservers: Nameservers = Field(default_factory=list)
    nat64_prefixes: Nat64Prefixes = Field(default_factory=list)


class CorsSettings(Group):
    """Browser origins that may call the API; none by default."""

    allowed_origins: Origins = Field(default_factory=list)


class RotationSettings(Group):
    """How long a replaced key is kept for rollback."""

    retention: Duration = Field(default=timedelta(hours=72), le=_A_YEAR)


class RateLimitSettings(Group):
    """Requests per organization and minute."""

    credential_writes: int = Field(default=60, ge=1, le=1_000_000)
    url_checks: int = Field(default=30, ge=1, le=1_000_000)
    spend_limit_writes: int = Field(default=60, ge=1, le=1_000_000)


class ValidationSettings(Group):
    """Periodic checks of keys."""

    every: OptionalDuration = Field(default=timedelta(hours=24), ge=timedelta(minutes=1), le=_A_YEAR)
    concurrency: int = Field(default=16, ge=1, le=200)
    concurrency_per_host: int = Field(default=4, ge=1, le=200)


class UsageSettings(Group):
    """The ledger: how long rows are kept, and how much of the database ingestion may take."""

    # Never less than events may come late, and a month for partitions are whole ones.
    retention: Duration = Field(default=timedelta(days=400), ge=timedelta(days=70), le=100 * _A_YEAR)
    batches_at_once: int = Field(default=4, ge=1, le=100)
    patience: Duration = Field(default=timedelta(seconds=3), ge=timedelta(0), le=timedelta(seconds=30))


class JobSettings(Group):
    """Background jobs."""

    # Without a pause between looks an idle service takes a whole core.
    interval: Duration = Field(default=timedelta(seconds=5), ge=timedelta(seconds=1), le=timedelta(hours=1))


class Settings(BaseSettings):
    """Everything that can be set. See README for the table."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter="__",
        env_file=".env",
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,
        nested_model_default_partial_update=True,
    )

    environment: Environment = Environment.DEVELOPMENT
    host: ListeningHost = "127.0.0.1"
    port: int = Field(default=8000, ge=1, le=LARGEST_PORT)
    data_dir: Path = Path(".data")
    debug: bool = False
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["json", "console"] = "json"
    database: DatabaseSettings = DatabaseSettings()
    vault: VaultSettings = VaultSettings()
    secret_store: SecretStoreSettings = SecretStoreSettings()
    auth: AuthSettings = AuthSettings()
    provider: ProviderSettings = ProviderSettings()
    dns: DnsSettings = DnsSettings()
    cors: CorsSettings = CorsSettings()
    rotation: RotationSettings = RotationSettings()
    rate_limits: RateLimitSettings = RateLimitSettings()
    validation: ValidationSettings = ValidationSettings()
    usage: UsageSettings = UsageSettings()
    jobs: JobSettings = JobSettings()

    @property
    def is_production(self) -> bool:
        return self.environment is Environment.PRODUCTION

    @property
    def messages_url(self) -> str:
        return f"{self.provider.default_base_url}/v1/messages"


def load_settings(**overrides: Any) -> Settings:
    """Read and check the settings.

    Raises:
        SettingsRefused: with one line per wrong variable; never its value.
    """
    try:
        settings = Settings(**overrides)
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False, include_context=False)
        raise SettingsRefused(
            *(f"{_variable(item['loc'])}: {_message(item['msg'])}" for item in found)
        ) from None
    except SettingsError as error:
        raise SettingsRefused(_not_json(error)) from None
    refusals = [
        *_inconsistencies(settings),
        *(_production_refusals(settings) if settings.is_production else ()),
    ]
    if refusals:
        raise SettingsRefused(*refusals)
    return settings


def unknown_variables(environ: Mapping[str, str] = os.environ) -> list[str]:
    """Variables with our prefix that set nothing: most often a spelling mistake."""
    known = set(_names(Settings))
    free = f"{PREFIX}VAULT__ROLES__"
    tools = (f"{PREFIX}TEST_", f"{PREFIX}BENCH_")
    names = (name.upper() for name in environ)
    return sorted(
        n for n in names if n.startswith(PREFIX) and n not in known and not n.startswith((free, *tools))
    )


def _names(model: type[BaseModel], prefix: str = PREFIX) -> Iterator[str]:
    for name, field in model.model_fields.items():
        variable = f"{prefix}{name.upper()}"
        kind = field.annotation
        if get_origin(kind) is None and isinstance(kind, type) and issubclass(kind, Group):
            yield from _names(kind, f"{variable}__")
        else:
            yield variable


def _variable(location: tuple[int | str, ...]) -> str:
    named = [str(part).upper() for part in location if isinstance(part, str) and part.isidentifier()]
    return PREFIX + "__".join(named[:2])


def _not_json(error: SettingsError) -> str:
    """What holds several settings is read as JSON. The error names the group: neither the variable nor its value."""
    named = re.search(r'field "(\w+)"', str(error))
    group = PREFIX + (named[1].upper() if named else "")
    given = {name.upper() for name in os.environ} & {group, f"{group}__ROLES"}
    variable = given.pop() if len(given) == 1 else group
    return f"{variable}: is not JSON; set one by one what belongs to it, by {variable}__..."


def _message(message: str) -> str:
    return message.removeprefix("Value error, ")


def _inconsistencies(settings: Settings) -> Iterator[str]:
    auth = settings.auth
    if (auth.issuer is None) != (auth.jwks_url is None):
        yield f"{PREFIX}AUTH__{'ISSUER' if auth.issuer is None else 'JWKS_URL'}: set issuer and JWKS URL together"
    if auth.jwks_url is not None:
        yield from _url_refusals(
            "AUTH__JWKS_URL",
            auth.jwks_url,
            "https://id.example.com/jwks",
            is_production=settings.is_production,
        )
    if settings.vault.address is not None:
        yield from _url_refusals(
            "VAULT__ADDRESS",
            settings.vault.address,
            "https://vault.example.com:8200",
            is_production=settings.is_production,
        )
    if settings.database.migration_url is not None and settings.database.url is None:
        yield f"{PREFIX}DATABASE__URL: needed beside {PREFIX}DATABASE__MIGRATION_URL"
    for name, file in (
        ("PROVIDER__CA_FILE", settings.provider.ca_file),
        ("VAULT__CA_FILE", settings.vault.ca_file),
    ):
        if file is not None and not _holds_certificates(file):
            yield f"{PREFIX}{name}: must be a file of PEM certificates that can be read"


def _url_refusals(name: str, url: str, example: str, *, is_production: bool) -> Iterator[str]:
    parts = split_url(url)
    if parts is None or parts.scheme not in {"https", "http"}:
        yield f"{PREFIX}{name}: must be a URL such as {example}"
    elif parts.scheme == "http" and (is_production or not is_loopback(parts)):
        yield f"{PREFIX}{name}: must be https"


def _holds_certificates(file: Path) -> bool:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=file)
    except (OSError, ssl.SSLError):
        return False
    return True


def _production_refusals(settings: Settings) -> Iterator[str]:
    if settings.debug or settings.log_level == "debug":
        yield f"{PREFIX}{'DEBUG' if settings.debug else 'LOG_LEVEL'}: must not be on in production"
    if settings.auth.jwks_url is None:
        yield f"{PREFIX}AUTH__JWKS_URL: production needs an external issuer; the embedded signing key is for development"
    if settings.database.url is None:
        yield f"{PREFIX}DATABASE__URL: production needs a PostgreSQL server; the embedded one is for development"
    if settings.vault.address is None and not settings.secret_store.allow_embedded:
        yield (
            f"{PREFIX}SECRET_STORE__ALLOW_EMBEDDED: production uses the embedded secret store only with explicit consent;"
            f" set {PREFIX}VAULT__ADDRESS, or this to true"
        )
    if not settings.provider.default_base_url.startswith("https://"):
        yield f"{PREFIX}PROVIDER__DEFAULT_BASE_URL: must be https in production"
