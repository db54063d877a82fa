"""Table of contents: every router."""

from fastapi import APIRouter

from app.routers import audit, credentials, docs, health, validation

router = APIRouter()
for part in (credentials, validation, audit, health, docs):
    router.include_router(part.router)
