"""Puts the use cases together over whatever adapters they are given."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

from app.domain.prices import PriceList
from app.egress.webhooks import WebhookClient
from app.repositories.unit_of_work import UnitsOfWork
from app.secret_store.base import SecretStore
from app.services import Services
from app.services.activation import Activation
from app.services.audit import Audit
from app.services.auth import Authenticator
from app.services.billing import Billing
from app.services.checks import Checks, CheckSchedule, Prober
from app.services.credentials import Credentials
from app.services.deliveries import Deliveries
from app.services.destinations import Destinations
from app.services.folding import Folding
from app.services.health import Health, Ping
from app.services.idempotency import Idempotency
from app.services.leases import Leases, Wrapper
from app.services.limits import Limits
from app.services.mode_previews import ModePreviews
from app.services.price_backfill import PriceBackfill
from app.services.prices import Prices
from app.services.provider_urls import HostGuard, ProviderUrls
from app.services.rate_limits import RateLimitKind, RateLimits
from app.services.reports import Reports
from app.services.reservations import Reservations
from app.services.retirement import Retirement
from app.services.revalidation import Revalidation
from app.services.rewraps import Rewraps
from app.services.rollback import Rollback
from app.services.rotation import Rotation
from app.services.secret_writes import SecretWrites
from app.services.statements import Statements
from app.services.subscriptions import Subscriptions
from app.services.suspension import Suspension
from app.services.sweep import Sweep
from app.services.turns import Turns
from app.services.usage import Usage
from app.services.usage_listing import UsageListing
from app.services.usage_retention import UsageRetention
from app.services.validation import Validation
from app.services.webhooks import Webhooks

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
    retirement = Retirement(units, store, leases)
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
        auth=adapters.auth,
        credentials=Credentials(units, store, checks, rate_limits, destinations),
        checks=checks,
        validation=validation,
        audit=Audit(units),
        idempotency=Idempotency(units),
        sweep=Sweep(
            units,
            SecretWrites(units, store),
            checks,
            rotation,
            retirement,
            webhooks=webhooks,
            rewraps=Rewraps(units, store),
        ),
        health=Health(adapters.pings),
        billing=Billing(units),
        prices=prices,
        price_backfill=PriceBackfill(units, prices, limits),
        mode_previews=ModePreviews(units),
        statements=Statements(units),
        subscriptions=Subscriptions(units),
        provider_urls=provider_urls,
        leases=leases,
        rotation=rotation,
        rollback=Rollback(units, retention=rules.retention),
        suspension=Suspension(units),
        limits=limits,
        reservations=Reservations(units, prices),
        webhooks=webhooks,
        deliveries=Deliveries(units, store, adapters.webhooks),
        reports=Reports(units),
        folding=Folding(units),
        retirement=retirement,
        usage=Usage(
            units,
            prices=prices,
            limits=limits,
            turns=Turns(
                rules.usage_batches_at_once,
                patience_seconds=rules.usage_patience.total_seconds(),
                at_most_waiting=WAITING_PER_TURN * rules.usage_batches_at_once,
            ),
        ),
        usage_listing=UsageListing(units),
        usage_retention=UsageRetention(units, keep_for=rules.usage_retention),
        revalidation=Revalidation(
            units, validation, concurrency=rules.checks_at_once, per_host=rules.checks_per_host
        ),
    )
