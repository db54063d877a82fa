"""Table of contents: every router."""

from app.routers import (
    audit,
    billing,
    credentials,
    docs,
    health,
    leases,
    provider_urls,
    retirement,
    rotation,
    statements,
    subscriptions,
    validation,
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
        subscriptions,
        statements,
        leases,
        audit,
        health,
        docs,
    )
)
