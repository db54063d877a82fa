"""Table of contents: every router."""

from fastapi import APIRouter

from app.routers import audit, billing, credentials, docs, health, provider_urls, validation

router = APIRouter()
for part in (credentials, validation, provider_urls, billing, audit, health, docs):
    router.include_router(part.router)
