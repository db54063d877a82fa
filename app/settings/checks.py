"""What settings are refused for together, although each of them is valid. Each line names one variable."""

import ssl
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path

from app.settings.groups.storage import DatabaseSettings
from app.settings.operator_urls import parse_operator_url
from app.settings.settings import Settings
from app.settings.types import InvalidSetting
from app.settings.variables import PREFIX

_DIRECT_URL_REQUIRED = (
    f"{PREFIX}DATABASE__DIRECT_URL: required if {PREFIX}DATABASE__URL has pgbouncer=true; set it to the same login on the"
    " server itself"
)


class Purpose(StrEnum):
    """What a command does. It is refused only for what it needs."""

    RUN = "run"  # the service: everything
    MIGRATE = "migrate"  # the database
    SET_UP_VAULT = "set_up_vault"  # the Vault server


def refusals_of(settings: Settings, purpose: Purpose) -> Iterator[str]:
    """One line for each reason not to run with these settings."""
    if purpose is Purpose.MIGRATE:
        yield from _migration_problems(settings)
    elif purpose is Purpose.SET_UP_VAULT:
        yield from _vault_problems(settings)
    else:
        yield from _inconsistencies(settings)
        if settings.is_production:
            yield from _production_refusals(settings)


def _migration_problems(settings: Settings) -> Iterator[str]:
    database = settings.database
    if settings.is_production and database.url is None and database.migration_url is None:
        yield f"{PREFIX}DATABASE__MIGRATION_URL: production requires a PostgreSQL server; the embedded one is for development"
    yield from _pooled_logins(database)
    owner = database.migration_url or database.direct_url or database.url
    if owner is database.url and owner is not None and owner.is_pooled:
        yield _DIRECT_URL_REQUIRED


def _vault_problems(settings: Settings) -> Iterator[str]:
    if settings.vault.address is not None:
        yield from _check_url(
            "VAULT__ADDRESS",
            settings.vault.address,
            "https://vault.example.com:8200",
            is_production=settings.is_production,
        )
    yield from _check_certificates("VAULT__CA_FILE", settings.vault.ca_file)


def _inconsistencies(settings: Settings) -> Iterator[str]:
    auth = settings.auth
    if (auth.issuer is None) != (auth.jwks_url is None):
        yield f"{PREFIX}AUTH__{'ISSUER' if auth.issuer is None else 'JWKS_URL'}: set issuer and JWKS URL together"
    if auth.jwks_url is not None:
        yield from _check_url(
            "AUTH__JWKS_URL",
            auth.jwks_url,
            "https://id.example.com/jwks",
            is_production=settings.is_production,
            with_query=True,  # Entra's has one
        )
    if settings.is_page_enabled and settings.page.client_id is not None and auth.issuer is not None:
        # The page signs in there. Otherwise the issuer is only compared.
        yield from _check_url(
            "AUTH__ISSUER", auth.issuer, "https://id.example.com", is_production=settings.is_production
        )
    yield from _database_inconsistencies(settings.database)
    yield from _check_certificates("AUTH__CA_FILE", settings.auth.ca_file)
    yield from _check_certificates("PROVIDER__CA_FILE", settings.provider.ca_file)
    yield from _vault_problems(settings)


def _database_inconsistencies(database: DatabaseSettings) -> Iterator[str]:
    others = {
        "MIGRATION_URL": database.migration_url,
        "DIRECT_URL": database.direct_url,
        "REPORTS_URL": database.reports_url,
    }
    if database.url is None:
        for name in (name for name, url in others.items() if url is not None):
            yield f"{PREFIX}DATABASE__URL: required if {PREFIX}DATABASE__{name} is set"
        return
    yield from _pooled_logins(database)
    if database.url.is_pooled and database.direct_url is None:
        yield _DIRECT_URL_REQUIRED


def _pooled_logins(database: DatabaseSettings) -> Iterator[str]:
    """The logins that need a session of the server, but lead to a pooler."""
    for name, url in (("MIGRATION_URL", database.migration_url), ("DIRECT_URL", database.direct_url)):
        if url is not None and url.is_pooled:
            yield f"{PREFIX}DATABASE__{name}: must lead to the server itself, without pgbouncer=true"


def _check_url(
    name: str, url: str, example: str, *, is_production: bool, with_query: bool = False
) -> Iterator[str]:
    try:
        parsed = parse_operator_url(url, example=example, with_query=with_query)
    except InvalidSetting as error:
        yield f"{PREFIX}{name}: {error}"
        return
    if parsed.scheme == "http" and (is_production or parsed.is_plain_to_another_machine):
        yield f"{PREFIX}{name}: must be https"


def _check_certificates(name: str, file: Path | None) -> Iterator[str]:
    if file is not None and not _contains_certificates(file):
        yield f"{PREFIX}{name}: must be a readable file of PEM certificates"


def _contains_certificates(file: Path) -> bool:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=file)
    except (OSError, ssl.SSLError):
        return False
    return True


def _production_refusals(settings: Settings) -> Iterator[str]:
    if settings.process.allow_core_dumps:
        yield f"{PREFIX}PROCESS__ALLOW_CORE_DUMPS: core dumps are not allowed in production; they contain keys"
    if settings.debug or settings.log_level == "debug":
        yield f"{PREFIX}{'DEBUG' if settings.debug else 'LOG_LEVEL'}: debug logging is not allowed in production"
    if settings.auth.jwks_url is None:
        yield f"{PREFIX}AUTH__JWKS_URL: production requires an external issuer; the embedded signing key is for development"
    if settings.database.url is None:
        yield f"{PREFIX}DATABASE__URL: production requires a PostgreSQL server; the embedded one is for development"
    if settings.vault.address is None and not settings.secret_store.allow_embedded:
        yield (
            f"{PREFIX}SECRET_STORE__ALLOW_EMBEDDED: production uses the embedded secret store only with explicit consent;"
            f" set {PREFIX}VAULT__ADDRESS, or set this to true"
        )
    if not settings.provider.default_base_url.startswith("https://"):
        yield f"{PREFIX}PROVIDER__DEFAULT_BASE_URL: must be https in production"
