"""Puts the use cases together over whatever adapters they are given."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

from app.audit.service import AuditService
from app.auth.authenticator import Authenticator
from app.billing.mode_preview_service import ModePreviewService
from app.billing.service import StatementService
from app.billing.subscription_service import SubscriptionService
from app.composition.reconciler import Reconciler
from app.core.services import Services
from app.credentials.activation import Activation
from app.credentials.deletion import DeletionService
from app.credentials.enablement import EnablementService
from app.credentials.service import CredentialService
from app.credentials.write_protocol import WriteProtocol
from app.database.unit_of_work import UnitsOfWork
from app.egress.webhooks import WebhookClient
from app.health.service import HealthService, Ping
from app.idempotency.service import IdempotencyService
from app.leases.service import LeaseService, Wrapper
from app.pricing.backfill import PriceBackfillService
from app.pricing.prices import PriceList
from app.pricing.service import PriceService
from app.provider_url.endpoint_service import EndpointService
from app.provider_url.service import HostGuard, ProviderUrlService
from app.rate_limits.service import RateLimiter, RateLimitKind
from app.readiness.service import ReadinessService
from app.rotation.rollback import RollbackService
from app.rotation.service import RotationService
from app.secret_maintenance.rewrap_steps import RewrapSteps
from app.secret_store.port import SecretStore
from app.spend_limits.reservation_service import ReservationService
from app.spend_limits.service import SpendLimitService
from app.usage.admission import AdmissionQueue
from app.usage.listing import UsageListingService
from app.usage.retention import UsageRetentionWorker
from app.usage.service import IngestionService
from app.usage_mode.service import UsageModeService
from app.usage_reports.rollup_worker import RollupWorker
from app.usage_reports.service import ReportService
from app.validation.runner import Prober, ValidationRunner, ValidationSchedule
from app.validation.service import ValidationService
from app.validation.worker import ValidationWorker
from app.webhooks.delivery_worker import DeliveryWorker
from app.webhooks.service import WebhookService

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
class ServiceConfig:
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


def build_services(adapters: Adapters, rules: ServiceConfig) -> Services:
    """All use cases. Await `checks.close()` before the adapters are closed."""
    units, store = adapters.units, adapters.store
    rate_limits = RateLimiter(
        units,
        {
            RateLimitKind.CREDENTIAL_WRITES: rules.credential_writes_per_minute,
            RateLimitKind.URL_CHECKS: rules.url_checks_per_minute,
            RateLimitKind.SPEND_LIMIT_WRITES: rules.spend_limit_writes_per_minute,
        },
    )
    activation = Activation(retention=rules.retention)
    checks = ValidationRunner(
        units, store, adapters.provider, ValidationSchedule(every=rules.check_every), activation
    )
    validation = ValidationService(units, checks, rate_limits)
    provider_urls = ProviderUrlService(
        adapters.guard, rate_limits, default_messages_url=rules.default_messages_url
    )
    destinations = EndpointService(provider_urls, default_messages_url=rules.default_messages_url)
    leases = LeaseService(units, adapters.wrapper, vault_address=adapters.vault_address)
    usage_mode = UsageModeService(units)
    retirement = DeletionService(units, store, leases, usage_mode)
    rotation = RotationService(
        units,
        store,
        checks=checks,
        activation=activation,
        retirement=retirement,
        rate_limits=rate_limits,
        destinations=destinations,
    )
    prices = PriceService(units, adapters.price_list)
    limits = SpendLimitService(units, rate_limits)
    webhooks = WebhookService(units, store, adapters.guard, rate_limits)
    return Services(
        adapters.auth,
        CredentialService(units, store, checks, rate_limits, destinations),
        checks,
        validation,
        AuditService(units),
        IdempotencyService(units),
        Reconciler(
            units,
            WriteProtocol(units, store),
            checks,
            rotation,
            retirement,
            webhooks=webhooks,
            rewraps=RewrapSteps(units, store),
        ),
        HealthService(adapters.pings),
        usage_mode,
        ReadinessService(units),
        prices,
        PriceBackfillService(units, prices, limits),
        ModePreviewService(units),
        StatementService(units),
        SubscriptionService(units),
        provider_urls,
        leases,
        rotation,
        RollbackService(units, retention=rules.retention),
        EnablementService(units),
        limits,
        ReservationService(units, prices),
        webhooks,
        DeliveryWorker(units, store, adapters.webhooks),
        ReportService(units),
        RollupWorker(units),
        retirement,
        IngestionService(
            units,
            prices=prices,
            limits=limits,
            turns=AdmissionQueue(
                rules.usage_batches_at_once,
                patience_seconds=rules.usage_patience.total_seconds(),
                at_most_waiting=WAITING_PER_TURN * rules.usage_batches_at_once,
            ),
        ),
        UsageListingService(units),
        UsageRetentionWorker(units, keep_for=rules.usage_retention),
        ValidationWorker(units, validation, concurrency=rules.checks_at_once, per_host=rules.checks_per_host),
    )
