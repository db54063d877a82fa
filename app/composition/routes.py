"""All routers, in the order of the OpenAPI document."""

from app.api import docs_page as docs
from app.audit import router as audit
from app.billing import mode_preview_router as mode_preview
from app.billing import router as statements
from app.billing import subscription_router as subscriptions
from app.credentials import lifecycle_router as lifecycle
from app.credentials import router as credentials
from app.export_links import router as export_links
from app.health import router as health
from app.leases import router as leases
from app.pricing import router as prices
from app.provider_url import router as provider_urls
from app.readiness import router as readiness
from app.rotation import router as rotation
from app.session import router as session
from app.spend_limits import reservation_router as reservations
from app.spend_limits import router as limits
from app.usage import listing_router as usage_listing
from app.usage import router as usage_ingestion
from app.usage_mode import router as usage_mode
from app.usage_reports import router as reports
from app.validation import router as validation
from app.webhooks import router as webhooks

ROUTERS = tuple(
    feature.router
    for feature in (
        credentials,
        rotation,
        lifecycle,
        validation,
        provider_urls,
        usage_mode,
        mode_preview,
        readiness,
        prices,
        limits,
        reservations,
        webhooks,
        subscriptions,
        statements,
        leases,
        usage_ingestion,
        usage_listing,
        reports,
        export_links,
        audit,
        session,
        health,
        docs,
    )
)
