"""Settings: environment variables with the prefix BYOK_, grouped by `__`, also read from `.env`.

No secret has a default. A wrong value stops start-up with one line naming the variable.
"""

import os
import ssl
from collections.abc import Iterator, Mapping
from datetime import timedelta
from enum import StrEnum
from ipaddress import IPv6Network, ip_address
from pathlib import Path
from typing import Annotated, Any, Literal, get_origin
from urllib.parse import urlsplit

import sqlalchemy as sa
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from app.core.durations import parse_duration
from app.domain.address_policy import NAT64_PREFIX_LENGTHS
from app.domain.host_name import judge_host
from app.domain.url_refusal import UrlReason

PREFIX = "BYOK_"

_LARGEST_PORT = 65535


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


def _duration(value: object) -> object:
    return parse_duration(value) if isinstance(value, str) else value


def _words(value: object) -> object:
    return [word.strip() for word in value.split(",") if word.strip()] if isinstance(value, str) else value


def _database_url(value: object) -> object:
    """Whatever PostgreSQL tools accept, as SQLAlchemy's asyncpg URL."""
    if not isinstance(value, str):
        return value
    try:
        url = sa.make_url(value)
    except sa.exc.ArgumentError:
        raise ValueError("must be a URL such as postgresql://user:password@host:5432/name") from None
    if url.drivername not in {"postgresql", "postgres", "postgresql+asyncpg"}:
        raise ValueError("must be a postgresql:// URL")
    query = dict(url.query)
    if any(name.startswith("ssl") and name not in {"ssl", "sslmode"} for name in query):
        raise ValueError("certificates are set by PGSSLROOTCERT, PGSSLCERT and PGSSLKEY, not in the URL")
    if "sslmode" in query:  # libpq's name; asyncpg calls it ssl
        query["ssl"] = query.pop("sslmode")
    return url.set(drivername="postgresql+asyncpg", query=query)


def _provider_url(value: str) -> str:
    try:
        parts = urlsplit(value)
        _ = parts.port
    except ValueError:
        raise ValueError("must be a URL such as https://api.anthropic.com") from None
    if (
        parts.scheme not in {"https", "http"}
        or not parts.hostname
        or parts.query
        or parts.fragment
        or parts.username
    ):
        raise ValueError("must be a URL such as https://api.anthropic.com")
    if parts.scheme == "http" and not _is_loopback(parts.hostname):
        raise ValueError("must be https; plain http is for loopback addresses in development")
    return value.rstrip("/")


def _host_of(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _optional_duration(value: object) -> object:
    return None if value == "off" else _duration(value)


def _nameservers(value: list[str]) -> list[str]:
    for text in value:
        host, _, port = (
            text.rpartition(":") if text.count(":") == 1 or text.startswith("[") else (text, "", "53")
        )
        try:
            ip_address(host.removeprefix("[").removesuffix("]"))
            is_port = 0 < int(port) <= _LARGEST_PORT and text.count("[") == text.count("]")
        except ValueError:
            is_port = False
        if not is_port:
            raise ValueError("each must be an IP address, or address:port, or [address]:port")
    return value


def _host_names(value: list[str]) -> list[str]:
    judged = [judge_host(text) for text in value]
    if any(isinstance(name, UrlReason) for name in judged):
        raise ValueError("each must be a public host name, such as gateway.example.com")
    return [str(name) for name in judged]


def _nat64_prefixes(value: list[str]) -> list[str]:
    for text in value:
        try:
            length = IPv6Network(text).prefixlen
        except ValueError:
            length = 0
        if length not in NAT64_PREFIX_LENGTHS:
            raise ValueError("each must be an IPv6 prefix of 32, 40, 48, 56, 64 or 96 bits")
    return value


Duration = Annotated[timedelta, BeforeValidator(_duration)]
Words = Annotated[list[str], NoDecode, BeforeValidator(_words)]
MessagePatternName = Literal[
    "cors_refused",
    "billing_problem",
    "spend_cap",
    "organization_disabled",
    "workspace_required",
    "model_missing",
]
DatabaseUrl = Annotated[sa.URL, BeforeValidator(_database_url)]
ProviderBaseUrl = Annotated[str, BeforeValidator(lambda value: _provider_url(str(value)))]


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
    timeout: Duration = timedelta(seconds=5)


class VaultSettings(Group):
    """HashiCorp Vault or OpenBao. Without an address: the embedded sealed store."""

    address: str | None = None
    namespace: str | None = None
    ca_file: Path | None = None
    kv_mount: str = "byok"
    transit_mount: str = "byok-transit"
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

    issuer: str | None = None
    audience: str = "byok"
    jwks_url: str | None = None
    clock_skew: Duration = timedelta(seconds=30)


class ProviderSettings(Group):
    """The provider's default endpoint, set by the operator and therefore trusted."""

    default_base_url: ProviderBaseUrl = "https://api.anthropic.com"
    ca_file: Path | None = None
    allowed_hosts: Annotated[Words, AfterValidator(_host_names)] = Field(default_factory=list)
    timeout: Duration = Field(
        default=timedelta(seconds=15), ge=timedelta(seconds=1), le=timedelta(seconds=15)
    )
    message_patterns: dict[MessagePatternName, Words] = Field(default_factory=dict)


class DnsSettings(Group):
    """Which name servers to ask; none: those of the system."""

    nameservers: Annotated[Words, AfterValidator(_nameservers)] = Field(default_factory=list)
    nat64_prefixes: Annotated[Words, AfterValidator(_nat64_prefixes)] = Field(default_factory=list)


class CorsSettings(Group):
    """Browser origins that may call the API; none by default."""

    allowed_origins: Words = Field(default_factory=list)


class RotationSettings(Group):
    """How long a replaced key is kept for rollback."""

    retention: Duration = timedelta(hours=72)


class RateLimitSettings(Group):
    """Requests per organization and minute."""

    credential_writes: int = Field(default=60, ge=1)
    url_checks: int = Field(default=30, ge=1)
    spend_limit_writes: int = Field(default=60, ge=1)


class ValidationSettings(Group):
    """Periodic checks of keys."""

    every: Annotated[
        timedelta | None, Field(ge=timedelta(minutes=1)), BeforeValidator(_optional_duration)
    ] = timedelta(hours=24)
    concurrency: int = Field(default=16, ge=1, le=200)
    concurrency_per_host: int = Field(default=4, ge=1, le=200)


class UsageSettings(Group):
    """The ledger: how long rows are kept, and how much of the database ingestion may take."""

    # Never less than events may come late, and a month for partitions are whole ones.
    retention: Duration = Field(default=timedelta(days=400), ge=timedelta(days=70))
    batches_at_once: int = Field(default=4, ge=1, le=100)
    patience: Duration = Field(default=timedelta(seconds=3), ge=timedelta(0), le=timedelta(seconds=30))


class JobSettings(Group):
    """Background jobs."""

    interval: Duration = timedelta(seconds=5)


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
    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=1, le=65535)
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
    test = f"{PREFIX}TEST_"
    names = (name.upper() for name in environ)
    return sorted(
        n for n in names if n.startswith(PREFIX) and n not in known and not n.startswith((free, test))
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


def _message(message: str) -> str:
    return message.removeprefix("Value error, ")


def _inconsistencies(settings: Settings) -> Iterator[str]:
    auth = settings.auth
    if (auth.issuer is None) != (auth.jwks_url is None):
        yield f"{PREFIX}AUTH__{'ISSUER' if auth.issuer is None else 'JWKS_URL'}: set issuer and JWKS URL together"
    if auth.jwks_url is not None and not auth.jwks_url.startswith("https://"):
        host = _host_of(auth.jwks_url)
        if settings.is_production or not _is_loopback(host):
            yield f"{PREFIX}AUTH__JWKS_URL: must be https"
    if settings.vault.address is not None:
        is_plain = settings.vault.address.startswith("http://")
        if not settings.vault.address.startswith("https://") and not is_plain:
            yield f"{PREFIX}VAULT__ADDRESS: must be a URL such as https://vault.example.com:8200"
        elif is_plain and (settings.is_production or not _is_loopback(_host_of(settings.vault.address))):
            yield f"{PREFIX}VAULT__ADDRESS: must be https"
    if settings.database.migration_url is not None and settings.database.url is None:
        yield f"{PREFIX}DATABASE__URL: needed beside {PREFIX}DATABASE__MIGRATION_URL"
    for name, file in (
        ("PROVIDER__CA_FILE", settings.provider.ca_file),
        ("VAULT__CA_FILE", settings.vault.ca_file),
    ):
        if file is not None and not _holds_certificates(file):
            yield f"{PREFIX}{name}: must be a file of PEM certificates that can be read"


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
