"""Composition root: settings → engine, stores, clients → services. The only module that names concrete adapters."""

from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from ipaddress import IPv6Network
from pathlib import Path

import httpcore
import httpx
import sqlalchemy as sa

from app.audit.service import AuditService
from app.auth.authenticator import Authenticator, KeySource
from app.auth.signing_keys import EmbeddedIssuer
from app.composition.factory import Adapters, ServiceConfig, build_services
from app.core.errors import DatabaseUnavailable, SecretStoreUnavailable
from app.core.private_file import PrivateFileRefused
from app.core.services import Services
from app.core.tls import tls_context
from app.credentials.verdicts import Reason
from app.database.embedded_postgres import EmbeddedPostgresFailed, embedded_postgres
from app.database.engine import Database, DatabaseLogin
from app.database.instance_lock import LockTaken, present
from app.database.migrations import create_database, current_revision, migrate, newest_revision
from app.database.preflight import DATABASE_ERRORS, OLDEST_POSTGRESQL, login_powers, server_version
from app.database.unit_of_work import UnitsOfWork
from app.egress.anthropic import AnthropicClient
from app.egress.http_client import http_client
from app.egress.jwks import JwksClient
from app.egress.resolver import AddressGuard, DnsResolver
from app.egress.transport import trusted_transport, vetted_transport
from app.egress.webhooks import LIMITS as WEBHOOK_LIMITS
from app.egress.webhooks import WebhookClient
from app.health.service import HealthService
from app.observability.metrics import watch_pool
from app.secret_store.binding import VAULT, RootOutdated, StoreMismatch, bind_store
from app.secret_store.embedded.keyring import Keyring
from app.secret_store.embedded.keyset import KeysetRefused
from app.secret_store.embedded.store import EmbeddedSecretStore
from app.secret_store.vault.client import VaultServer
from app.secret_store.vault.responses import VaultUnavailable
from app.secret_store.vault.roles import VaultRole, VaultSessions, logins_of
from app.secret_store.vault.session import VaultSession
from app.secret_store.vault.setup import SetUpRefused, VaultSetup
from app.secret_store.vault.store import VaultMounts, VaultSecretStore
from app.settings.environment import Settings, SettingsRefused
from app.validation.decision_table import MessagePatterns
from app.validation.runner import ValidationRunner


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
        raise SettingsRefused.of("DATA_DIR", str(error)) from None


async def prepare_database(settings: Settings, access: DatabaseAccess) -> None:
    """Bring the schema up to date in development; in production check that it is, and that the login has no powers.

    Raises:
        SettingsRefused: the database cannot be used as it is.
    """
    with _refused_when_unreachable():
        if settings.is_production:
            await _check_production(access)
        else:
            await _bring_up_to_date(settings, access)


async def migrate_to(settings: Settings, access: DatabaseAccess, target: str) -> str | None:
    """Migrate as the owner, in any environment; returns the revision that the schema is at then.

    Raises:
        SettingsRefused: the database cannot be reached, or the target is none.
    """
    assert access.owner is not None
    with _refused_when_unreachable():
        if settings.database.url is None:
            await create_database(access.owner)
        await migrate(access.owner, target)
        return await current_revision(access.owner)


async def _bring_up_to_date(settings: Settings, access: DatabaseAccess) -> None:
    assert access.owner is not None
    if settings.database.url is None:
        await create_database(access.owner)
    if await server_version(access.owner) < OLDEST_POSTGRESQL:
        raise SettingsRefused.of("DATABASE__URL", "PostgreSQL 15 or newer is needed")
    if await current_revision(access.owner) != newest_revision():
        await migrate(access.owner)


@contextmanager
def _refused_when_unreachable() -> Iterator[None]:
    try:
        yield
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
async def open_services(
    settings: Settings, access: DatabaseAccess, *, dialer: httpcore.AsyncNetworkBackend | None = None
) -> AsyncIterator[Services]:
    """Build everything, in the order in which it depends on each other; closed in reverse.

    `dialer` opens connections to vetted addresses in place of the network's own: for tests, which
    reach nothing but loopback.

    Raises:
        SettingsRefused: a file of the data directory cannot be used.
    """
    from app.pricing.price_list import load_price_list  # noqa: PLC0415  # heavy, and needed only by a service

    async with AsyncExitStack() as resources:
        database = open_database(settings, access, resources)
        watch_pool(lambda: database.connections_in_use)
        units = UnitsOfWork(database)
        store = await _secret_store(settings, database, resources)
        guard = _address_guard(settings)
        provider = await _provider(settings, guard, resources, dialer)
        services = build_services(
            Adapters(
                units=units,
                store=store,
                provider=provider,
                guard=guard,
                auth=await _authenticator(settings, resources),
                webhooks=await _webhooks(settings, guard, resources, dialer),
                pings={"database": database.ping, "secret_store": store.ping},
                price_list=load_price_list(),
                wrapper=store if isinstance(store, VaultSecretStore) else None,
                vault_address=settings.vault.address,
            ),
            _rules(settings),
        )
        resources.push_async_callback(services[ValidationRunner].close)
        if settings.provider.allowed_hosts:
            await services[AuditService].record_exempt_hosts(settings.provider.allowed_hosts)
        yield services


def _rules(settings: Settings) -> ServiceConfig:
    return ServiceConfig(
        default_messages_url=settings.messages_url,
        retention=settings.rotation.retention,
        check_every=settings.validation.every,
        checks_at_once=settings.validation.concurrency,
        checks_per_host=settings.validation.concurrency_per_host,
        credential_writes_per_minute=settings.rate_limits.credential_writes,
        url_checks_per_minute=settings.rate_limits.url_checks,
        spend_limit_writes_per_minute=settings.rate_limits.spend_limit_writes,
        usage_retention=settings.usage.retention,
        usage_batches_at_once=min(settings.usage.batches_at_once, max(1, settings.database.pool_size // 2)),
        usage_patience=settings.usage.patience,
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


async def check_services(settings: Settings, access: DatabaseAccess) -> dict[str, str | None]:
    """What is wrong with each dependency, for `byok doctor`."""
    async with open_services(settings, access) as services:
        return await services[HealthService].check()


async def check_provider(settings: Settings) -> Reason | None:
    """Why the provider's default endpoint cannot be reached; None when it can."""
    async with AsyncExitStack() as resources:
        provider = await _provider(settings, _address_guard(settings), resources)
        return await provider.reachable(settings.provider.default_base_url)


def _address_guard(settings: Settings) -> AddressGuard:
    return AddressGuard(
        DnsResolver(settings.dns.nameservers),
        allowed_hosts=settings.provider.allowed_hosts,
        nat64=[IPv6Network(prefix) for prefix in settings.dns.nat64_prefixes],
    )


async def _provider(
    settings: Settings,
    guard: AddressGuard,
    resources: AsyncExitStack,
    dialer: httpcore.AsyncNetworkBackend | None = None,
) -> AnthropicClient:
    """Two ways out: to the operator's endpoint, and to vetted addresses of what customers entered."""
    given = settings.provider
    tls = tls_context(given.ca_file)
    trusted = httpx.AsyncClient(transport=trusted_transport(given.default_base_url, tls=tls), trust_env=False)
    custom = httpx.AsyncClient(transport=vetted_transport(guard, tls=tls, dialer=dialer), trust_env=False)
    patterns = MessagePatterns(**{name: tuple(words) for name, words in given.message_patterns.items()})
    return AnthropicClient(
        await resources.enter_async_context(trusted),
        default_messages_url=settings.messages_url,
        custom_http=await resources.enter_async_context(custom),
        patterns=patterns,
        timeout_seconds=given.timeout.total_seconds(),
    )


async def _webhooks(
    settings: Settings,
    guard: AddressGuard,
    resources: AsyncExitStack,
    dialer: httpcore.AsyncNetworkBackend | None,
) -> WebhookClient:
    """Apart from the provider's connections: slow receivers keep no check waiting."""
    transport = vetted_transport(
        guard, tls=tls_context(settings.provider.ca_file), limits=WEBHOOK_LIMITS, dialer=dialer
    )
    http = httpx.AsyncClient(transport=transport, trust_env=False)
    return WebhookClient(await resources.enter_async_context(http))


async def _secret_store(
    settings: Settings, database: Database, resources: AsyncExitStack
) -> EmbeddedSecretStore | VaultSecretStore:
    """Vault where an address is set, else the embedded store; either way the one that the database's keys lie in."""
    store: EmbeddedSecretStore | VaultSecretStore
    try:
        await resources.enter_async_context(present(database))
        if settings.vault.address is None:
            keys = Keyring.load_or_create(keyset_path(settings))
            store = embedded_store(database, keys)
            bound = await bind_store(database, keys.keyset.identity)
            if bound.root_id is not None and keys.keyset.root(bound.root_id) is None:
                raise RootOutdated
        else:
            store = open_vault(settings, resources)
            await bind_store(database, VAULT)
    except LockTaken:
        raise SettingsRefused.of(
            "DATABASE__URL",
            "`byok migrate-secrets` is moving this database's keys; start again when it has ended",
        ) from None
    except (KeysetRefused, StoreMismatch) as error:
        raise SettingsRefused.of(
            "DATA_DIR" if settings.vault.address is None else "VAULT__ADDRESS", str(error)
        ) from None
    except (SecretStoreUnavailable, DatabaseUnavailable):
        raise SettingsRefused.of("DATABASE__URL", "the database cannot be reached") from None
    return store


def embedded_store(database: Database, keys: Keyring) -> EmbeddedSecretStore:
    """The store in the database."""
    return EmbeddedSecretStore(database, keys)


def keyset_path(settings: Settings) -> Path:
    """Where the embedded store's root keys are."""
    return settings.data_dir / "secret-store" / "keyset.json"


def open_vault(settings: Settings, resources: AsyncExitStack) -> VaultSecretStore:
    """The store at BYOK_VAULT__ADDRESS.

    Raises:
        SettingsRefused
    """
    store = VaultSecretStore(
        VaultSessions(vault_server(settings), logins_of(settings.vault)), vault_mounts(settings)
    )
    resources.push_async_callback(store.close)
    return store


def open_database(settings: Settings, access: DatabaseAccess, resources: AsyncExitStack) -> Database:
    """The service's pool."""
    database = Database(
        access.login,
        pool_size=settings.database.pool_size,
        timeout_seconds=settings.database.timeout.total_seconds(),
    )
    resources.push_async_callback(database.close)
    return database


def vault_server(settings: Settings) -> VaultServer:
    """The server that BYOK_VAULT__ADDRESS names."""
    assert settings.vault.address is not None
    return VaultServer(settings.vault.address, ca_file=settings.vault.ca_file)


def vault_mounts(settings: Settings) -> VaultMounts:
    return VaultMounts(kv=settings.vault.kv_mount, transit=settings.vault.transit_mount)


async def set_up_vault(settings: Settings, progress: Callable[[str], None]) -> Mapping[str, str]:
    """Engines, keys, policies and roles on a Vault server, by the log-in that is set; returns the role ids.

    Raises:
        SettingsRefused: no address, a log-in that may not do it, or something in the way.
    """
    if settings.vault.address is None:
        raise SettingsRefused.of("VAULT__ADDRESS", "set it to the server to set up")
    server = vault_server(settings)
    session = VaultSession(server, logins_of(settings.vault)[VaultRole.PROVISIONER])
    try:
        found = await VaultSetup(session, vault_mounts(settings), progress=progress).run()
    except SetUpRefused as error:
        raise SettingsRefused.of("VAULT__KV_MOUNT", str(error)) from None
    except VaultUnavailable as error:
        raise SettingsRefused.of(
            "VAULT__ADDRESS", f"Vault does not let us set it up: {error.reason}"
        ) from None
    finally:
        await session.close()
        server.close()
    return {str(role): role_id for role, role_id in found.items()}


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
