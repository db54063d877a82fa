"""The composition root: builds stores, clients and services from the settings, and closes them in reverse order."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import httpcore

from app.audit.service import AuditService
from app.auth.authenticator import Authenticator, KeySource
from app.auth.claims import ClaimNames
from app.composition.database_access import DatabaseAccess
from app.composition.development_issuer import embedded_issuer
from app.composition.factory import Adapters, Quotas, ServiceConfig, build_services
from app.composition.outbound import (
    address_guard,
    open_provider_client,
    open_relay_client,
    open_webhook_client,
)
from app.composition.storage import open_database, open_secret_store, open_usage_reads
from app.core.services import Services
from app.core.tls import shared_tls_context
from app.database.unit_of_work import UnitsOfWork
from app.egress.http_client import http_client
from app.egress.jwks import JwksClient
from app.egress.streaming.connections import Route, direct
from app.health.service import HealthService
from app.observability.metrics import track_pool_usage
from app.relay.records import RelayLimits
from app.relay.service import Relay
from app.secret_store.embedded.store import EmbeddedSecretStore
from app.settings.environment import SettingsRefused
from app.settings.groups.limits import QuotaSettings
from app.settings.groups.provider import RelaySettings
from app.settings.settings import Settings
from app.validation.runner import ValidationRunner

# The text of the error may be that of a library, which quotes the value.
_NOT_A_JWKS_URL = (
    "must be an https URL such as https://id.example.com/jwks, without credentials and a fragment"
)


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
    store = await open_secret_store(settings, database, resources)
    vault = None if isinstance(store, EmbeddedSecretStore) else store
    guard = address_guard(settings)
    tls = shared_tls_context(settings.provider.ca_file)
    return Adapters(
        units=units,
        usage_reads=await open_usage_reads(settings, access, database, units, resources),
        store=store,
        provider=await open_provider_client(settings, guard, tls, resources, network_backend),
        guard=guard,
        auth=await _authenticator(settings, resources),
        webhooks=await open_webhook_client(guard, tls, resources, network_backend),
        relay=open_relay_client(settings, guard, tls, resources, relay_route),
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


async def check_services(settings: Settings, access: DatabaseAccess) -> dict[str, str | None]:
    """The error of each dependency, or `None`, for `byok doctor`."""
    async with open_services(settings, access) as services:
        return await services[HealthService].check()


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
        except ValueError:
            raise SettingsRefused.of("AUTH__JWKS_URL", _NOT_A_JWKS_URL) from None
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
