"""Table of contents: every router."""

from app.routers import (
    audit,
    billing,
    credentials,
    docs,
    health,
    leases,
    provider_urls,
    reports,
    retirement,
    rotation,
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
        leases,
        reports,
        audit,
        health,
        docs,
    )
)
