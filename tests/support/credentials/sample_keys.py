"""Random keys, and a function that writes one to a store."""

import secrets
from uuid import uuid4

from app.core.keys.api_key import ApiKey
from app.secret_store.port import SecretRef, SecretStore


def make_key() -> ApiKey:
    return ApiKey.parse(f"sk-ant-api03-{secrets.token_urlsafe(60)}AA")


async def write(store: SecretStore, ref: SecretRef, *, expected_version: int = 0) -> ApiKey:
    key = make_key()
    await store.write(ref, key, intent_id=uuid4(), expected_version=expected_version)
    return key
