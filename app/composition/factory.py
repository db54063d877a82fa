"""Builds all services from the adapters and the configuration."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta

from app.api.csv_export import ExportQueue
from app.audit.retention import AuditRetentionWorker
from app.audit.service import AuditService
from app.auth.authenticator import Authenticator
from app.billing.mode_preview_service import ModePreviewService
from app.billing.service import StatementService
from app.billing.subscription_service import SubscriptionService
from app.composition.reconciler import Reconciler
from app.core.admission import AdmissionQueue
from app.core.errors import IngestionOverloaded
from app.core.event_loop import IterationBudget
from app.core.services import Services
from app.credentials.activation import Activation
from app.credentials.deletion import DeletionService
from app.credentials.enablement import EnablementService
from app.credentials.service import CredentialService
from app.credentials.write_protocol import WriteProtocol
from app.database.unit_of_work import UnitsOfWork
from app.egress.webhooks import WebhookClient
from app.export_links.service import ExportLinkService
from app.health.service import HealthService, Ping
from app.idempotency.service import IdempotencyService
from app.jobs.cell_jobs import CellJobs
from app.jobs.fair_runner import FairConcurrency
from app.jobs.retention import ExpiredRowsWorker
from app.leases.service import LeaseService, Wrapper
from app.pricing.backfill import PriceBackfillService
from app.pricing.prices import PriceList
from app.pricing.service import PriceService
from app.provider_url.endpoint_service import EndpointService
from app.provider_url.service import HostGuard, ProviderUrlService
from app.rate_limits.service import RateLimiter, RateLimitKind, WriteKind, WriteLimiter
from app.readiness.service import ReadinessService, StoredSecrets
from app.relay.admission import Admission
from app.relay.call import CallServices
from app.relay.destinations import Destinations
from app.relay.ending.lost_call_worker import LostCallWorker
from app.relay.ending.open_calls import OpenCalls
from app.relay.ending.settling import Settler
from app.relay.forwarding import Forwarder
from app.relay.intake.capacity import Capacity
from app.relay.key_reader import KeyReader
from app.relay.key_reports import KeyReports
from app.relay.records import RelayLimits
from app.relay.service import Relay
from app.relay.transport import ProviderClient
from app.rotation.rollback import RollbackService
from app.rotation.service import RotationService
from app.secret_maintenance.rewrap_steps import RewrapSteps
from app.secret_store.port import SecretStore
from app.spend_limits.reservation_service import ReservationService
from app.spend_limits.service import SpendLimitService
from app.usage.listing import UsageListingService
from app.usage.retention import UsageRetentionWorker
from app.usage.service import IngestionService
from app.usage_mode.notifications import ScheduledChangeNotifier
from app.usage_mode.service import UsageModeService
from app.usage_reports.day_finder import RollupDayFinder
from app.usage_reports.rollup_worker import RollupWorker
from app.usage_reports.service import ReportService
from app.validation.runner import Prober, ValidationRunner
from app.validation.schedule import ValidationSchedule
from app.validation.service import ValidationService
from app.validation.worker import ValidationWorker
from app.webhooks import outbox
from app.webhooks.delivery_worker import DeliveryWorker
from app.webhooks.service import WebhookService

# How many batches may wait for each one that runs. Waiting batches take memory, so their number has a limit.
QUEUED_BATCHES_PER_SLOT = 16
# The same for reports, exports and previews, which are small.
QUEUED_READS_PER_SLOT = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapters:
    """The adapters that services need. `wrapper`, `stored` and `vault_address` are `None` without Vault.

    Usage reports and lists of usage events use `usage_reads`, which may lead to a replica.
    Without `relay`, the services have no relay.
    """

    units: UnitsOfWork
    usage_reads: UnitsOfWork
    store: SecretStore
    provider: Prober
    guard: HostGuard
    auth: Authenticator
    pings: Mapping[str, Ping]
    price_list: PriceList
    webhooks: WebhookClient
    relay: ProviderClient | None = None
    wrapper: Wrapper | None = None
    stored: StoredSecrets | None = None
    vault_address: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Quotas:
    """What one organization may have or use at a time. `reads` is for all organizations together."""

    reads: int = 4
    reads_per_organization: int = 1
    exports_per_organization: int = 4
    queue_timeout: timedelta = timedelta(seconds=3)
    credentials: int = 200
    spend_limits: int = 100
    webhook_endpoints: int = 10
    price_overrides: int = 200
    usage_mode_changes: int = 1000
    rotations: int = 5000
    idempotency_keys: int = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceConfig:
    """What the operator configures. `validate_every` is `None` without periodic validation."""

    default_messages_url: str
    retention: timedelta
    validate_every: timedelta | None
    validation_concurrency: int
    validation_concurrency_per_host: int
    credential_writes_per_minute: int
    url_checks_per_minute: int
    spend_limit_writes_per_minute: int
    usage_retention: timedelta = timedelta(days=400)
    usage_batches_at_once: int = 4
    usage_queue_timeout: timedelta = timedelta(seconds=3)
    validation_concurrency_per_organization: int = 4
    changes_per_minute: int = 1_000_000
    work_per_minute: int = 1_000_000
    audit_retention: timedelta | None = None
    quotas: Quotas = Quotas()
    relay: RelayLimits = field(default_factory=RelayLimits)


def build_services(adapters: Adapters, config: ServiceConfig) -> Services:
    """All services. Await `ValidationRunner.close` before closing the adapters."""
    units, store = adapters.units, adapters.store
    rate_limits = _rate_limiter(units, config)
    usage_mode = UsageModeService(units, outbox.notify, max_changes=config.quotas.usage_mode_changes)
    webhooks = WebhookService(
        units, store, adapters.guard, rate_limits, max_endpoints=config.quotas.webhook_endpoints
    )
    reads = _read_admission(config.quotas)
    services = Services(
        adapters.auth,
        AuditService(units, reads),
        CellJobs(units),
        AuditRetentionWorker(units, keep_for=config.audit_retention),
        ExpiredRowsWorker(units),
        IdempotencyService(units, max_keys=config.quotas.idempotency_keys),
        WriteLimiter({WriteKind.CHANGES: config.changes_per_minute, WriteKind.WORK: config.work_per_minute}),
        _export_queue(config.quotas),
        ExportLinkService(units),
        HealthService(adapters.pings),
        usage_mode,
        ReadinessService(units, adapters.stored),
        webhooks,
        DeliveryWorker(units, store, adapters.webhooks),
        *_credential_services(adapters, config, rate_limits, usage_mode=usage_mode, webhooks=webhooks),
        *_usage_services(adapters, config, rate_limits, reads),
        ModePreviewService(units, reads),
        StatementService(units, reads),
        SubscriptionService(units),
    )
    if adapters.relay is None:
        return services
    relay = _relay(adapters, config, services)
    services[HealthService].is_shutting_down = relay.is_draining
    return services.replacing(relay)


def _relay(adapters: Adapters, config: ServiceConfig, services: Services) -> Relay:
    """The relay, on top of reservations, ingestion and validation."""
    assert adapters.relay is not None
    units, limits = adapters.units, config.relay
    open_calls = OpenCalls(units)
    admission = Admission(units, services[ReservationService], is_managed_enabled=limits.is_managed_enabled)
    return Relay(
        CallServices(
            admission=admission,
            destinations=Destinations(
                units, admission, small_seconds=limits.small_seconds, total_seconds=limits.total_seconds
            ),
            forwarder=Forwarder(
                KeyReader(adapters.store), adapters.relay, default_messages_url=config.default_messages_url
            ),
            settler=Settler(services[IngestionService], services[ReservationService], open_calls),
            open_calls=open_calls,
            capacity=Capacity(limits),
            key_reports=KeyReports(services[ValidationService]),
            limits=limits,
            begin_budget=IterationBudget(),
            send_budget=IterationBudget(),
            read_budget=IterationBudget(),
        ),
        adapters.relay,
    )


def _read_admission(quotas: Quotas) -> AdmissionQueue:
    return AdmissionQueue(
        quotas.reads,
        per_organization=quotas.reads_per_organization,
        queue_timeout_seconds=quotas.queue_timeout.total_seconds(),
        max_waiting=QUEUED_READS_PER_SLOT * quotas.reads,
    )


def _export_queue(quotas: Quotas) -> ExportQueue:
    return ExportQueue(
        None,
        per_organization=quotas.exports_per_organization,
        queue_timeout_seconds=quotas.queue_timeout.total_seconds(),
        max_waiting=QUEUED_READS_PER_SLOT * quotas.exports_per_organization,
    )


def _rate_limiter(units: UnitsOfWork, config: ServiceConfig) -> RateLimiter:
    return RateLimiter(
        units,
        {
            RateLimitKind.CREDENTIAL_WRITES: config.credential_writes_per_minute,
            RateLimitKind.URL_CHECKS: config.url_checks_per_minute,
            RateLimitKind.SPEND_LIMIT_WRITES: config.spend_limit_writes_per_minute,
        },
    )


def _credential_services(
    adapters: Adapters,
    config: ServiceConfig,
    rate_limits: RateLimiter,
    *,
    usage_mode: UsageModeService,
    webhooks: WebhookService,
) -> Iterator[object]:
    """Credentials with their provider URLs, validation, rotation and leases, and the reconciler of all secrets."""
    units, store = adapters.units, adapters.store
    activation = Activation(retention=config.retention, notify=outbox.notify)
    schedule = ValidationSchedule(every=config.validate_every)
    runner = ValidationRunner(units, store, adapters.provider, schedule, activation)
    validation = ValidationService(units, runner, rate_limits)
    urls = ProviderUrlService(adapters.guard, rate_limits, default_messages_url=config.default_messages_url)
    endpoints = EndpointService(urls, default_messages_url=config.default_messages_url)
    leases = LeaseService(units, adapters.wrapper, vault_address=adapters.vault_address)
    deletion = DeletionService(units, store, leases, usage_mode)
    rotation = RotationService(
        units,
        store,
        validator=runner,
        activation=activation,
        deletion=deletion,
        rate_limits=rate_limits,
        endpoints=endpoints,
        max_rotations=config.quotas.rotations,
    )
    yield from (urls, runner, validation, leases, deletion, rotation, EnablementService(units))
    yield CredentialService(
        units, store, runner, rate_limits, endpoints, max_credentials=config.quotas.credentials
    )
    yield RollbackService(units, retention=config.retention, notify=outbox.notify)
    yield _validation_worker(units, validation, config)
    yield Reconciler(
        units,
        WriteProtocol(units, store),
        runner,
        rotation,
        deletion,
        webhooks=webhooks,
        rewraps=RewrapSteps(units, store),
        scheduled_changes=ScheduledChangeNotifier(units, outbox.notify),
        retries=_retry_concurrency(config),
    )


def _retry_concurrency(config: ServiceConfig) -> FairConcurrency:
    """As many retries of rotations run at once as periodic validations, because they wait for the provider too."""
    return FairConcurrency(
        total=config.validation_concurrency, per_organization=config.validation_concurrency_per_organization
    )


def _validation_worker(
    units: UnitsOfWork, validation: ValidationService, config: ServiceConfig
) -> ValidationWorker:
    return ValidationWorker(
        units,
        validation,
        concurrency=config.validation_concurrency,
        per_organization=config.validation_concurrency_per_organization,
        per_host=config.validation_concurrency_per_host,
    )


def _usage_services(
    adapters: Adapters, config: ServiceConfig, rate_limits: RateLimiter, reads: AdmissionQueue
) -> Iterator[object]:
    """The usage ledger with its prices, spend limits and reports."""
    units = adapters.units
    prices = PriceService(units, adapters.price_list, max_models=config.quotas.price_overrides)
    limits = SpendLimitService(units, rate_limits, max_limits=config.quotas.spend_limits)
    admission = AdmissionQueue(
        config.usage_batches_at_once,
        per_organization=max(1, config.usage_batches_at_once * 3 // 4),
        queue_timeout_seconds=config.usage_queue_timeout.total_seconds(),
        max_waiting=QUEUED_BATCHES_PER_SLOT * config.usage_batches_at_once,
        error=IngestionOverloaded,
    )
    yield from (prices, limits)
    yield PriceBackfillService(units, prices, limits)
    yield ReservationService(units, prices)
    ingestion = IngestionService(units, prices=prices, limits=limits, admission=admission)
    yield from (ingestion, LostCallWorker(units, ingestion))
    yield UsageListingService(adapters.usage_reads, reads, RollupDayFinder())
    yield UsageRetentionWorker(units, keep_for=config.usage_retention)
    yield ReportService(adapters.usage_reads, reads)
    yield RollupWorker(units)
