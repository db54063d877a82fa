"""Table of contents: every router."""

from app.routers import (
    audit,
    billing,
    credentials,
    docs,
    health,
    leases,
    prices,
    provider_urls,
    retirement,
    rotation,
    usage,
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
        prices,
        leases,
        usage,
        audit,
        health,
        docs,
    )
)
