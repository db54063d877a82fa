"""Table of contents: every router."""

from app.routers import (
    audit,
    billing,
    credentials,
    docs,
    health,
    leases,
    limits,
    prices,
    provider_urls,
    reports,
    reservations,
    retirement,
    rotation,
    statements,
    subscriptions,
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
        subscriptions,
        statements,
        leases,
        usage,
        reports,
        audit,
        health,
        docs,
    )
)
