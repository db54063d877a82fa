"""Table of contents: every router."""

from app.routers import (
    audit,
    billing,
    credentials,
    docs,
    health,
    leases,
    limits,
    provider_urls,
    reservations,
    retirement,
    rotation,
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
        limits,
        reservations,
        webhooks,
        leases,
        audit,
        health,
        docs,
    )
)
