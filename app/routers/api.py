"""Table of contents: every router."""

from app.routers import (
    audit,
    billing,
    credentials,
    docs,
    health,
    leases,
    prices,
    limits,
    provider_urls,
    reservations,
    reports,
    retirement,
    rotation,
    usage,
    validation,
    webhooks,
)

ROUTERS = tuple(
    part.router
    for part in (
        credentials,
        rotation,
        retirement,
        validation,
        provider_urls,
        billing,
        prices,
        limits,
        reservations,
        webhooks,
        leases,
        usage,
        reports,
        audit,
        health,
        docs,
    )
)
