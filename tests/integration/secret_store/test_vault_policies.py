"""What each role must not be able to do: each request is sent to a real server with that role's login."""

from base64 import b64encode
from collections.abc import Mapping
from typing import Any
from uuid import uuid4

import pytest

from app.secret_store.encoding import length_prefixed
from app.secret_store.port import SecretRef
from app.secret_store.vault.responses import VaultResponse
from app.secret_store.vault.roles import VaultRole
from app.secret_store.vault.session import VaultLogin
from app.secret_store.vault.store import VaultSecretStore
from tests.support.credentials.sample_keys import write
from tests.support.vault.forbidden_requests import FORBIDDEN_REQUESTS, ForbiddenRequest, StoredKey
from tests.support.vault.prepared import PreparedVault


@pytest.fixture
async def stored(vault: VaultSecretStore, real_vault: PreparedVault) -> StoredKey:
    ref = SecretRef(organization_id=f"org_{uuid4().hex}", credential_id=uuid4())
    await write(vault, ref)
    secret = f"orgs/{ref.organization_id}/creds/{ref.credential_id}"
    context = length_prefixed(ref.organization_id.encode(), ref.credential_id.bytes, b"provider key")
    return StoredKey(
        kv=real_vault.mounts.kv,
        transit=real_vault.mounts.transit,
        secret=secret,
        transit_key=f"org.{ref.organization_id}.key",
        ciphertext=(await real_vault.get(secret, 1))["ct"],
        context=b64encode(context).decode(),
    )


@pytest.fixture(scope="session")
async def logins(real_vault: PreparedVault) -> dict[VaultRole, VaultLogin]:
    return await real_vault.logins()


async def send(
    real_vault: PreparedVault, login: VaultLogin, forbidden: ForbiddenRequest, stored: StoredKey
) -> VaultResponse:
    path = forbidden.path.format(
        kv=stored.kv, transit=stored.transit, secret=stored.secret, transit_key=stored.transit_key
    )
    options: dict[str, Any] = {} if forbidden.body is None else {"json": dict(forbidden.body(stored))}
    async with real_vault.session(login) as session:
        return await session.call(
            lambda vault: vault.adapter.request(
                forbidden.method, f"/v1/{path}", wrap_ttl=forbidden.wrap_ttl, **options
            )
        )


class TestPolicies:
    @pytest.mark.parametrize(
        ("forbidden", "role"),
        [
            pytest.param(forbidden, role, id=f"{role}-{forbidden.name}")
            for forbidden in FORBIDDEN_REQUESTS
            for role in forbidden.roles
        ],
    )
    async def test_deny_the_request(
        self,
        real_vault: PreparedVault,
        logins: Mapping[VaultRole, VaultLogin],
        stored: StoredKey,
        forbidden: ForbiddenRequest,
        role: VaultRole,
    ) -> None:
        assert (await send(real_vault, logins[role], forbidden, stored)).status == 403

    @pytest.mark.parametrize(
        "forbidden", [pytest.param(forbidden, id=forbidden.name) for forbidden in FORBIDDEN_REQUESTS]
    )
    async def test_are_the_only_reason_for_the_denial(
        self, real_vault: PreparedVault, stored: StoredKey, forbidden: ForbiddenRequest
    ) -> None:
        response = await send(real_vault, real_vault.root, forbidden, stored)

        assert response.status != 403
        assert "unsupported" not in str(response.body)
