"""Puts the use cases together over whatever adapters they are given."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

from app.audit.service import Audit
from app.auth.authenticator import Authenticator
from app.billing.mode_preview_service import ModePreviews
from app.billing.service import Statements
from app.billing.subscription_service import Subscriptions
from app.composition.reconciler import Sweep
from app.core.services import Services
from app.credentials.activation import Activation
from app.credentials.deletion import Retirement
from app.credentials.enablement import Suspension
from app.credentials.service import Credentials
from app.credentials.write_protocol import SecretWrites
from app.database.unit_of_work import UnitsOfWork
from app.egress.webhooks import WebhookClient
from app.health.service import Health, Ping
from app.idempotency.service import Idempotency
from app.leases.service import Leases, Wrapper
from app.pricing.backfill import PriceBackfill
from app.pricing.prices import PriceList
from app.pricing.service import Prices
from app.provider_url.endpoint_service import Destinations
from app.provider_url.service import HostGuard, ProviderUrls
from app.rate_limits.service import RateLimitKind, RateLimits
from app.readiness.service import ReadinessService
from app.rotation.rollback import Rollback
from app.rotation.service import Rotation
from app.secret_maintenance.rewrap_steps import Rewraps
from app.secret_store.port import SecretStore
from app.spend_limits.reservation_service import Reservations
from app.spend_limits.service import Limits
from app.usage.admission import Turns
from app.usage.listing import UsageListing
from app.usage.retention import UsageRetention
from app.usage.service import Usage
from app.usage_mode.service import Billing
from app.usage_reports.rollup_worker import Folding
from app.usage_reports.service import Reports
from app.validation.runner import Checks, CheckSchedule, Prober
from app.validation.service import Validation
from app.validation.worker import Revalidation
from app.webhooks.delivery_worker import Deliveries
from app.webhooks.service import Webhooks

# Batches that wait for each that may run: they are in memory, so not any number of them.
WAITING_PER_TURN = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapters:
    """The ways out, and who may come in. `wrapper` and `vault_address` are None without Vault."""

    units: UnitsOfWork
    store: SecretStore
    provider: Prober
    guard: HostGuard
    auth: Authenticator
    pings: Mapping[str, Ping]
    price_list: PriceList
    webhooks: WebhookClient
    wrapper: Wrapper | None = None
    vault_address: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What the operator decides."""

    default_messages_url: str
    retention: timedelta
    check_every: timedelta | None
    checks_at_once: int
    checks_per_host: int
    credential_writes_per_minute: int
    url_checks_per_minute: int
    spend_limit_writes_per_minute: int
    usage_retention: timedelta = timedelta(days=400)
    usage_batches_at_once: int = 4
    usage_patience: timedelta = timedelta(seconds=3)


def assemble(adapters: Adapters, rules: Rules) -> Services:
    """All use cases. Await `checks.close()` before the adapters are closed."""
    units, store = adapters.units, adapters.store
    rate_limits = RateLimits(
        units,
        {
            RateLimitKind.CREDENTIAL_WRITES: rules.credential_writes_per_minute,
            RateLimitKind.URL_CHECKS: rules.url_checks_per_minute,
            RateLimitKind.SPEND_LIMIT_WRITES: rules.spend_limit_writes_per_minute,
        },
    )
    activation = Activation(retention=rules.retention)
    checks = Checks(units, store, adapters.provider, CheckSchedule(every=rules.check_every), activation)
    validation = Validation(units, checks, rate_limits)
    provider_urls = ProviderUrls(adapters.guard, rate_limits, default_messages_url=rules.default_messages_url)
    destinations = Destinations(provider_urls, default_messages_url=rules.default_messages_url)
    leases = Leases(units, adapters.wrapper, vault_address=adapters.vault_address)
    usage_mode = Billing(units)
    retirement = Retirement(units, store, leases, usage_mode)
    rotation = Rotation(
        units,
        store,
        checks=checks,
        activation=activation,
        retirement=retirement,
        rate_limits=rate_limits,
        destinations=destinations,
    )
    prices = Prices(units, adapters.price_list)
    limits = Limits(units, rate_limits)
    webhooks = Webhooks(units, store, adapters.guard, rate_limits)
    return Services(
        adapters.auth,
        Credentials(units, store, checks, rate_limits, destinations),
        checks,
        validation,
        Audit(units),
        Idempotency(units),
        Sweep(
            units,
            SecretWrites(units, store),
            checks,
            rotation,
            retirement,
            webhooks=webhooks,
            rewraps=Rewraps(units, store),
        ),
        Health(adapters.pings),
        usage_mode,
        ReadinessService(units),
        prices,
        PriceBackfill(units, prices, limits),
        ModePreviews(units),
        Statements(units),
        Subscriptions(units),
        provider_urls,
        leases,
        rotation,
        Rollback(units, retention=rules.retention),
        Suspension(units),
        limits,
        Reservations(units, prices),
        webhooks,
        Deliveries(units, store, adapters.webhooks),
        Reports(units),
        Folding(units),
        retirement,
        Usage(
            units,
            prices=prices,
            limits=limits,
            turns=Turns(
                rules.usage_batches_at_once,
                patience_seconds=rules.usage_patience.total_seconds(),
                at_most_waiting=WAITING_PER_TURN * rules.usage_batches_at_once,
            ),
        ),
        UsageListing(units),
        UsageRetention(units, keep_for=rules.usage_retention),
        Revalidation(units, validation, concurrency=rules.checks_at_once, per_host=rules.checks_per_host),
    )
