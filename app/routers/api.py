"""Table of contents: every router."""

from fastapi import APIRouter

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
    validation,
)

router = APIRouter()
for part in (
    credentials,
    rotation,
    retirement,
    validation,
    provider_urls,
    billing,
    leases,
    audit,
    health,
    docs,
):
    router.include_router(part.router)
