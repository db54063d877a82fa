"""Composition root: settings → engine, stores, clients → services. The only module that names concrete adapters."""

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass

import sqlalchemy as sa

from app.core.database import Database, DatabaseLogin
from app.core.embedded_postgres import EmbeddedPostgresFailed, embedded_postgres
from app.core.metrics import watch_pool
from app.core.migrations import create_database, current_revision, migrate, newest_revision
from app.core.private_file import PrivateFileRefused
from app.core.readiness import DATABASE_ERRORS, OLDEST_POSTGRESQL, login_powers, server_version
from app.core.settings import Settings, SettingsRefused
from app.core.signing_key import EmbeddedIssuer
from app.domain.errors import SecretStoreUnavailable
from app.domain.validation import Reason
from app.egress.anthropic import AnthropicClient
from app.egress.http import http_client
from app.egress.jwks import JwksClient
from app.repositories.unit_of_work import UnitsOfWork
from app.secret_store.base import SecretStore
from app.secret_store.embedded import EmbeddedSecretStore
from app.secret_store.keyset import Keyset, KeysetRefused
from app.services import Services
from app.services.audit import Audit
from app.services.auth import Authenticator, KeySource
from app.services.credentials import Credentials
from app.services.health import Health
from app.services.idempotency import Idempotency
from app.services.rate_limits import RateLimitKind, RateLimits
from app.services.secret_writes import SecretWrites
from app.services.sweep import Sweep
from app.services.validation import Validation


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseAccess:
    """The owner, who migrates, and the service's login. `owner` is None where only the operator has it."""

    owner: sa.URL | None
    login: DatabaseLogin


@contextmanager
def database_access(settings: Settings) -> Iterator[DatabaseAccess]:
    """How to get at the database; starts the embedded one where no other is set, and stops it on leaving.

    Raises:
        SettingsRefused: the embedded PostgreSQL does not start.
    """
    given = settings.database
    if given.url is not None:
        # With one URL only, its login owns the tables: every connection then steps down to the service's role.
        is_owner = given.migration_url is None
        yield DatabaseAccess(
            owner=given.url if is_owner else given.migration_url,
            login=DatabaseLogin(url=given.url, set_role=is_owner),
        )
        return
    try:
        with embedded_postgres(settings.data_dir) as url:
            yield DatabaseAccess(owner=url, login=DatabaseLogin(url=url, set_role=True))
    except EmbeddedPostgresFailed as error:
        raise SettingsRefused.of("DATABASE__URL", f"unset, and {error}") from None


async def prepare_database(settings: Settings, access: DatabaseAccess) -> None:
    """Bring the schema up to date in development; in production check that it is, and that the login has no powers.

    Raises:
        SettingsRefused: the database cannot be used as it is.
    """
    try:
        if settings.is_production:
            await _check_production(access)
            return
        assert access.owner is not None
        if settings.database.url is None:
            await create_database(access.owner)
        if await server_version(access.owner) < OLDEST_POSTGRESQL:
            raise SettingsRefused.of("DATABASE__URL", "PostgreSQL 15 or newer is needed")
        if await current_revision(access.owner) != newest_revision():
            await migrate(access.owner)
    except DATABASE_ERRORS as error:
        raise SettingsRefused.of(
            "DATABASE__URL",
            f"the database does not answer as it should ({type(error).__name__});"
            " check host, port, name, login and that the server runs",
        ) from None


async def _check_production(access: DatabaseAccess) -> None:
    powers = await login_powers(access.login.url)
    if powers:
        raise SettingsRefused.of(
            "DATABASE__URL",
            f"the service's login {', '.join(powers)}, and so gets around row-level security;"
            " use a login that is merely a member of byok_service",
        )
    if await current_revision(access.login.url) != newest_revision():
        raise SettingsRefused.of(
            "DATABASE__URL", "the schema is not at the revision of this version; run `byok migrate` first"
        )


@asynccontextmanager
async def open_services(settings: Settings, access: DatabaseAccess) -> AsyncIterator[Services]:
    """Build everything, in the order in which it depends on each other; closed in reverse.

    Raises:
        SettingsRefused: a file of the data directory cannot be used.
    """
    async with AsyncExitStack() as resources:
        database = Database(
            access.login,
            pool_size=settings.database.pool_size,
            timeout_seconds=settings.database.timeout.total_seconds(),
        )
        resources.push_async_callback(database.close)
        watch_pool(lambda: database.connections_in_use)
        http = await resources.enter_async_context(http_client(ca_file=settings.provider.ca_file))
        units = UnitsOfWork(database)
        store = await _secret_store(settings, database)
        rate_limits = RateLimits(
            units, {RateLimitKind.CREDENTIAL_WRITES: settings.rate_limits.credential_writes}
        )
        validation = Validation(units, store, AnthropicClient(http), rate_limits)
        resources.push_async_callback(validation.close)
        yield Services(
            auth=await _authenticator(settings, resources),
            credentials=Credentials(
                units, store, validation, rate_limits, default_messages_url=settings.messages_url
            ),
            validation=validation,
            audit=Audit(units),
            idempotency=Idempotency(units),
            sweep=Sweep(units, SecretWrites(units, store), validation),
            health=Health({"database": database.ping, "secret_store": store.ping}),
        )


def embedded_issuer(settings: Settings) -> EmbeddedIssuer:
    """The development key.

    Raises:
        SettingsRefused: an external issuer is configured, or the key file cannot be used.
    """
    if settings.auth.jwks_url is not None:
        raise SettingsRefused.of(
            "AUTH__JWKS_URL",
            "an external issuer is configured, so tokens come from there, not from the embedded key",
        )
    try:
        return EmbeddedIssuer.load_or_create(settings.data_dir, audience=settings.auth.audience)
    except PrivateFileRefused as error:
        raise SettingsRefused.of("DATA_DIR", f"{error}") from None


async def check_services(settings: Settings, access: DatabaseAccess) -> dict[str, bool]:
    """Whether each dependency answers, for `byok doctor`."""
    async with open_services(settings, access) as services:
        return await services.health.check()


async def check_provider(settings: Settings) -> Reason | None:
    """Why the provider's default endpoint cannot be reached; None when it can."""
    async with http_client(ca_file=settings.provider.ca_file) as http:
        return await AnthropicClient(http).reachable(settings.provider.default_base_url)


async def _secret_store(settings: Settings, database: Database) -> SecretStore:
    try:
        keyset = Keyset.load_or_create(settings.data_dir / "secret-store" / "keyset.json")
        store = EmbeddedSecretStore(database, keyset)
        await store.bind_database()
    except KeysetRefused as error:
        raise SettingsRefused.of("DATA_DIR", str(error)) from None
    except SecretStoreUnavailable:
        raise SettingsRefused.of(
            "DATABASE__URL", "the embedded secret store cannot reach its table"
        ) from None
    return store


async def _authenticator(settings: Settings, resources: AsyncExitStack) -> Authenticator:
    auth = settings.auth
    keys: KeySource
    if auth.jwks_url is None:
        keys = issuer = embedded_issuer(settings)
        name = issuer.issuer
    else:
        assert auth.issuer is not None
        # A client of its own: busy providers must not keep keys from being renewed, nor their CA vouch for the issuer.
        http = await resources.enter_async_context(http_client())
        try:
            keys = client = JwksClient(http, auth.jwks_url, allow_loopback_http=not settings.is_production)
        except ValueError as error:
            raise SettingsRefused.of("AUTH__JWKS_URL", str(error)) from None
        name = auth.issuer
        resources.push_async_callback(client.close)
    return Authenticator(
        keys, issuer=name, audience=auth.audience, clock_skew_seconds=int(auth.clock_skew.total_seconds())
    )
