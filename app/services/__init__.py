"""Use cases: one class per subject, one public method per use case; they own the unit of work."""

from dataclasses import dataclass

from app.services.audit import Audit
from app.services.auth import Authenticator
from app.services.billing import Billing
from app.services.checks import Checks
from app.services.credentials import Credentials
from app.services.deliveries import Deliveries
from app.services.folding import Folding
from app.services.health import Health
from app.services.idempotency import Idempotency
from app.services.leases import Leases
from app.services.limits import Limits
from app.services.mode_previews import ModePreviews
from app.services.price_backfill import PriceBackfill
from app.services.prices import Prices
from app.services.provider_urls import ProviderUrls
from app.services.reports import Reports
from app.services.reservations import Reservations
from app.services.retirement import Retirement
from app.services.revalidation import Revalidation
from app.services.rollback import Rollback
from app.services.rotation import Rotation
from app.services.statements import Statements
from app.services.subscriptions import Subscriptions
from app.services.suspension import Suspension
from app.services.sweep import Sweep
from app.services.usage import Usage
from app.services.usage_listing import UsageListing
from app.services.usage_retention import UsageRetention
from app.services.validation import Validation
from app.services.webhooks import Webhooks


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """What routers and jobs receive."""

    auth: Authenticator
    credentials: Credentials
    checks: Checks
    validation: Validation
    audit: Audit
    idempotency: Idempotency
    sweep: Sweep
    health: Health
    billing: Billing
    prices: Prices
    price_backfill: PriceBackfill
    mode_previews: ModePreviews
    statements: Statements
    subscriptions: Subscriptions
    provider_urls: ProviderUrls
    revalidation: Revalidation
    rotation: Rotation
    retirement: Retirement
    rollback: Rollback
    leases: Leases
    suspension: Suspension
    usage: Usage
    usage_listing: UsageListing
    usage_retention: UsageRetention
    limits: Limits
    reservations: Reservations
    webhooks: Webhooks
    deliveries: Deliveries
    reports: Reports
    folding: Folding
