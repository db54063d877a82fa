"""The composition root: builds engine, stores, clients and services from the settings.

Only this module names concrete adapters.
"""

import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from ipaddress import IPv6Network
from pathlib import Path
from typing import TYPE_CHECKING

import httpcore
import httpx

from app.audit.service import AuditService
from app.auth.authenticator import Authenticator, KeySource
from app.auth.claims import ClaimNames
from app.composition.database_access import DatabaseAccess
from app.composition.development_issuer import embedded_issuer
from app.composition.factory import Adapters, Quotas, ServiceConfig, build_services
from app.core.errors import DatabaseUnavailable, SecretStoreUnavailable
from app.core.services import Services
from app.core.tls import tls_context
from app.credentials.validation_results import Reason
from app.database.engine import Database
from app.database.instance_lock import LockTaken, share_instance_lock
from app.database.pool_shares import PoolQuotas
from app.database.replicas.units import replica_units
from app.database.unit_of_work import UnitsOfWork
from app.egress.anthropic import AnthropicClient
from app.egress.http_client import http_client
from app.egress.issuer_check import IssuerReport, inspect_issuer
from app.egress.jwks import JwksClient
from app.egress.resolver import AddressGuard, DnsResolver
from app.egress.streaming.connections import Route, direct
from app.egress.transport import operator_endpoint_transport, pinned_transport
from app.egress.webhooks import LIMITS as WEBHOOK_LIMITS
from app.egress.webhooks import WebhookClient
from app.health.service import HealthService
from app.observability.metrics import track_pool_usage
from app.relay.records import RelayLimits
from app.relay.service import Relay
from app.relay.transport import ProviderClient, Timeouts, open_client
from app.secret_store.binding import VAULT, KeysetOutdated, StoreMismatch, bind_store
from app.secret_store.embedded.keyring import Keyring
from app.secret_store.embedded.keyset import KeysetRefused
from app.secret_store.embedded.store import EmbeddedSecretStore
from app.settings.environment import SettingsRefused
from app.settings.groups.limits import QuotaSettings
from app.settings.groups.provider import RelaySettings
from app.settings.groups.storage import DatabaseSettings
from app.settings.settings import Settings
from app.settings.types import MessagePatternsByName
from app.validation.message_patterns import DEFAULT_PATTERNS, HostPatterns, MessagePatterns
from app.validation.runner import ValidationRunner

if TYPE_CHECKING:
    from app.secret_store.vault.store import VaultSecretStore


@asynccontextmanager
async def open_services(
    settings: Settings,
    access: DatabaseAccess,
    *,
    network_backend: httpcore.AsyncNetworkBackend | None = None,
    relay_route: Route = direct,
) -> AsyncIterator[Services]:
    """Build all services and their dependencies, and close the dependencies in reverse order on exit.

    Args:
        settings: the settings.
        access: the logins of the database.
        network_backend: opens the connections to validated addresses. Tests replace it, because they reach only
            loopback.
        relay_route: maps validated addresses of the relay, for the same reason.

    Raises:
        SettingsRefused: the settings cannot be used with this database, or a file of the data directory cannot be used.
    """
    async with AsyncExitStack() as resources:
        adapters = await _open_adapters(settings, access, resources, network_backend, relay_route)
        services = build_services(adapters, _service_config(settings))
        resources.push_async_callback(services[ValidationRunner].close)
        services[Relay].start()
        resources.push_async_callback(services[Relay].close)
        if settings.provider.allowed_hosts:
            await services[AuditService].record_exempt_hosts(settings.provider.allowed_hosts)
        yield services


async def _open_adapters(
    settings: Settings,
    access: DatabaseAccess,
    resources: AsyncExitStack,
    network_backend: httpcore.AsyncNetworkBackend | None,
    relay_route: Route,
) -> Adapters:
    """Open what leaves the process: the database, the secret store, the clients of providers and webhook receivers."""
    # Heavy, and only needed here.
    from app.pricing.price_list import load_price_list  # noqa: PLC0415

    database = open_database(settings, access, resources)
    track_pool_usage(lambda: database.connections_in_use)
    units = UnitsOfWork(database)
    store = await _secret_store(settings, database, resources)
    vault = None if isinstance(store, EmbeddedSecretStore) else store
    guard = _address_guard(settings)
    tls = tls_context(settings.provider.ca_file)  # shared, because reading the public roots is slow
    return Adapters(
        units=units,
        usage_reads=await _usage_reads(settings, access, database, units, resources),
        store=store,
        provider=await _provider(settings, guard, tls, resources, network_backend),
        guard=guard,
        auth=await _authenticator(settings, resources),
        webhooks=await _webhooks(guard, tls, resources, network_backend),
        relay=_relay_client(settings, guard, tls, resources, relay_route),
        pings={"database": database.ping, "secret_store": store.ping},
        price_list=load_price_list(),
        wrapper=vault,
        stored=vault,
        vault_address=settings.vault.address,
    )


def _service_config(settings: Settings) -> ServiceConfig:
    return ServiceConfig(
        default_messages_url=settings.messages_url,
        retention=settings.rotation.retention,
        validate_every=settings.validation.every,
        validation_concurrency=settings.validation.concurrency,
        validation_concurrency_per_host=settings.validation.concurrency_per_host,
        validation_concurrency_per_organization=settings.validation.concurrency_per_organization,
        credential_writes_per_minute=settings.rate_limits.credential_writes,
        url_checks_per_minute=settings.rate_limits.url_checks,
        spend_limit_writes_per_minute=settings.rate_limits.spend_limit_writes,
        usage_retention=settings.usage.retention,
        usage_batches_at_once=min(settings.usage.batches_at_once, max(1, settings.database.pool_size // 2)),
        usage_queue_timeout=settings.usage.patience,
        changes_per_minute=settings.rate_limits.changes,
        work_per_minute=settings.rate_limits.work,
        audit_retention=settings.audit.retention,
        relay=_relay_limits(settings.relay),
        quotas=Quotas(**{name: getattr(settings.quotas, name) for name in QuotaSettings.model_fields}),
    )


def _relay_limits(config: RelaySettings) -> RelayLimits:
    share = config.body_memory_per_organization
    return RelayLimits(
        slots=config.slots,
        slots_per_organization=config.slots_per_organization,
        body_seconds=config.body_timeout.total_seconds(),
        bodies_bytes=config.body_memory * 1024 * 1024,
        bodies_bytes_per_organization=(max(32, config.body_memory // 4) if share is None else share)
        * 1024
        * 1024,
        unread_seconds=config.unread_timeout.total_seconds(),
        total_seconds=config.total_timeout.total_seconds(),
        drain_seconds=config.drain.total_seconds(),
        is_managed_enabled=config.managed,
    )


def _relay_client(
    settings: Settings,
    guard: AddressGuard,
    tls: ssl.SSLContext,
    resources: AsyncExitStack,
    route: Route,
) -> ProviderClient:
    """The relay's connections to providers, apart from those of validations."""
    return open_client(
        guard,
        resources,
        operator_base_url=settings.provider.default_base_url,
        tls=tls,
        timeouts=Timeouts(
            upload_seconds=settings.relay.body_timeout.total_seconds(),
            idle_seconds=settings.relay.idle_timeout.total_seconds(),
        ),
        route=route,
    )


async def check_services(settings: Settings, access: DatabaseAccess) -> dict[str, str | None]:
    """The error of each dependency, or `None`, for `byok doctor`."""
    async with open_services(settings, access) as services:
        return await services[HealthService].check()


async def check_issuer(settings: Settings) -> IssuerReport | None:
    """What the issuer publishes, for `byok doctor`; None with the embedded key."""
    auth = settings.auth
    if auth.jwks_url is None or auth.issuer is None:
        return None
    async with http_client(ca_file=auth.ca_file) as http:
        return await inspect_issuer(http, issuer=auth.issuer, jwks_url=auth.jwks_url)


async def check_provider(settings: Settings) -> Reason | None:
    """Why the provider's default endpoint cannot be reached; `None` if it can be reached."""
    async with AsyncExitStack() as resources:
        tls = tls_context(settings.provider.ca_file)
        provider = await _provider(settings, _address_guard(settings), tls, resources)
        return await provider.unreachable_reason(settings.provider.default_base_url)


def _address_guard(settings: Settings) -> AddressGuard:
    return AddressGuard(
        DnsResolver(settings.dns.nameservers),
        allowed_hosts=settings.provider.allowed_hosts,
        nat64=[IPv6Network(prefix) for prefix in settings.dns.nat64_prefixes],
    )


async def _provider(
    settings: Settings,
    guard: AddressGuard,
    tls: ssl.SSLContext,
    resources: AsyncExitStack,
    network_backend: httpcore.AsyncNetworkBackend | None = None,
) -> AnthropicClient:
    """A client with two transports: to the operator's endpoint, and pinned to validated addresses of customers' URLs."""
    config = settings.provider
    trusted = httpx.AsyncClient(
        transport=operator_endpoint_transport(config.default_base_url, tls=tls), trust_env=False
    )
    custom = httpx.AsyncClient(
        transport=pinned_transport(guard, tls=tls, network_backend=network_backend), trust_env=False
    )
    return AnthropicClient(
        await resources.enter_async_context(trusted),
        default_messages_url=settings.messages_url,
        custom_http=await resources.enter_async_context(custom),
        patterns=_message_patterns(config.message_patterns),
        timeout_seconds=config.timeout.total_seconds(),
    )


def _message_patterns(config: MessagePatternsByName) -> MessagePatterns:
    """The built-in words with those of the operator."""
    if not config:
        return DEFAULT_PATTERNS
    defaults = DEFAULT_PATTERNS
    return MessagePatterns(
        cors_refused=tuple(config.get("cors_refused", defaults.cors_refused)),
        billing_problem=tuple(config.get("billing_problem", ())),
        spend_cap=tuple(config.get("spend_cap", ())),
        organization_disabled=tuple(config.get("organization_disabled", defaults.organization_disabled)),
        workspace_required=tuple(config.get("workspace_required", defaults.workspace_required)),
        model_missing=tuple(config.get("model_missing", ())),
        billing_codes=frozenset(config.get("billing_codes", ())),
        hosts={
            name: HostPatterns(
                billing_problem=tuple(host.get("billing_problem", ())),
                billing_codes=frozenset(host.get("billing_codes", ())),
            )
            for name, host in config.get("hosts", {}).items()
        },
    )


async def _webhooks(
    guard: AddressGuard,
    tls: ssl.SSLContext,
    resources: AsyncExitStack,
    network_backend: httpcore.AsyncNetworkBackend | None,
) -> WebhookClient:
    """A client with a separate connection pool, so that slow webhook receivers do not delay validations."""
    transport = pinned_transport(
        guard,
        tls=tls,
        limits=WEBHOOK_LIMITS,
        network_backend=network_backend,
    )
    http = httpx.AsyncClient(transport=transport, trust_env=False)
    return WebhookClient(await resources.enter_async_context(http))


async def _secret_store(
    settings: Settings, database: Database, resources: AsyncExitStack
) -> "EmbeddedSecretStore | VaultSecretStore":
    """Vault if an address is set, else the embedded store. It must be the store that holds the keys of this database."""
    store: EmbeddedSecretStore | VaultSecretStore
    try:
        await resources.enter_async_context(share_instance_lock(database))
        if settings.vault.address is None:
            keys = Keyring.load_or_create(keyset_path(settings))
            store = embedded_store(database, keys)
            bound = await bind_store(database, keys.keyset.identity)
            if bound.kek_id is not None and keys.keyset.kek(bound.kek_id) is None:
                raise KeysetOutdated
        else:
            from app.composition.vault import open_vault  # noqa: PLC0415  # slow to import, and rarely needed

            store = open_vault(settings, resources)
            await bind_store(database, VAULT)
    except LockTaken:
        raise SettingsRefused.of(
            "DATABASE__URL",
            "`byok migrate-secrets` is moving the keys of this database; start the service again when it has finished",
        ) from None
    except (KeysetRefused, StoreMismatch) as error:
        raise SettingsRefused.of(
            "DATA_DIR" if settings.vault.address is None else "VAULT__ADDRESS", str(error)
        ) from None
    except (SecretStoreUnavailable, DatabaseUnavailable):
        raise SettingsRefused.of("DATABASE__URL", "the database cannot be reached") from None
    return store


def embedded_store(database: Database, keys: Keyring) -> EmbeddedSecretStore:
    """The secret store in the database."""
    return EmbeddedSecretStore(database, keys)


def keyset_path(settings: Settings) -> Path:
    """The file with the key-encryption keys of the embedded store."""
    return settings.data_dir / "secret-store" / "keyset.json"


def open_database(settings: Settings, access: DatabaseAccess, resources: AsyncExitStack) -> Database:
    """The connection pool of the service."""
    database = Database(
        access.login,
        pool_size=settings.database.pool_size,
        timeout_seconds=settings.database.timeout.total_seconds(),
        quotas=_pool_quotas(settings.database),
    )
    resources.push_async_callback(database.close)
    return database


async def _usage_reads(
    settings: Settings,
    access: DatabaseAccess,
    primary: Database,
    units: UnitsOfWork,
    resources: AsyncExitStack,
) -> UnitsOfWork:
    """Units of work for usage reports and lists of usage events: on the replica if there is one."""
    if access.reports is None:
        return units
    if len(await primary.cells()) > 1:
        # A replica has no locks, so a move between the cells could end between two statements of a report.
        raise SettingsRefused.of(
            "DATABASE__REPORTS_URL", "reports from a replica are not supported with cells; remove it"
        )
    quotas = PoolQuotas(per_organization=_pool_quotas(settings.database).per_organization, reserved=0)
    replica = Database(
        access.reports,
        pool_size=settings.database.pool_size,
        timeout_seconds=settings.database.timeout.total_seconds(),
        quotas=quotas,
        is_replica=True,
    )
    resources.push_async_callback(replica.close)
    return await resources.enter_async_context(replica_units(primary, replica))


def _pool_quotas(settings: DatabaseSettings) -> PoolQuotas:
    per_organization, reserved = settings.connections_per_organization, settings.reserved_connections
    return PoolQuotas(
        per_organization=max(1, settings.pool_size // 2) if per_organization is None else per_organization,
        reserved=settings.pool_size * 3 // 10 if reserved is None else reserved,
    )


async def _authenticator(settings: Settings, resources: AsyncExitStack) -> Authenticator:
    auth = settings.auth
    keys: KeySource
    if auth.jwks_url is None:
        keys = issuer = embedded_issuer(settings)
        name = issuer.issuer
    else:
        assert auth.issuer is not None
        # A separate client: busy providers must not delay the refresh of the issuer's keys, and the provider's CA must
        # not authenticate the issuer.
        http = await resources.enter_async_context(http_client(ca_file=auth.ca_file))
        try:
            keys = client = JwksClient(http, auth.jwks_url, allow_loopback_http=not settings.is_production)
        except ValueError as error:
            raise SettingsRefused.of("AUTH__JWKS_URL", str(error)) from None
        name = auth.issuer
        resources.push_async_callback(client.close)
    return Authenticator(
        keys,
        issuer=name,
        audience=auth.audience,
        claim_names=ClaimNames()
        if auth.jwks_url is None
        else ClaimNames(
            organization=auth.organization_claim,
            scopes=tuple(auth.scope_claims),
            accepts_lists=True,
            service_scope=auth.service_scope,
        ),
        clock_skew_seconds=int(auth.clock_skew.total_seconds()),
    )
