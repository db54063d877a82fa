"""What each role may not do, asked of a real server with that role's own log-in."""

from base64 import b64encode
from collections.abc import Mapping
from typing import Any
from uuid import uuid4

import pytest

from app.secret_store.encoding import length_prefixed
from app.secret_store.port import SecretRef
from app.secret_store.vault.responses import Answer
from app.secret_store.vault.roles import VaultRole
from app.secret_store.vault.session import VaultLogin
from app.secret_store.vault.store import VaultSecretStore
from tests.integration.secret_store.keys import write
from tests.integration.secret_store.vaults import Prepared
from tests.integration.secret_store.wishes import WISHES, Place, Wish


@pytest.fixture
async def place(vault: VaultSecretStore, prepared: Prepared) -> Place:
    ref = SecretRef(organization_id=f"org_{uuid4().hex}", credential_id=uuid4())
    await write(vault, ref)
    secret = f"orgs/{ref.organization_id}/creds/{ref.credential_id}"
    context = length_prefixed(ref.organization_id.encode(), ref.credential_id.bytes, b"provider key")
    return Place(
        kv=prepared.mounts.kv,
        transit=prepared.mounts.transit,
        secret=secret,
        transit_key=f"org.{ref.organization_id}.key",
        ciphertext=(await prepared.get(secret, 1))["ct"],
        context=b64encode(context).decode(),
    )


@pytest.fixture(scope="session")
async def logins(prepared: Prepared) -> dict[VaultRole, VaultLogin]:
    return await prepared.logins()


async def ask(prepared: Prepared, login: VaultLogin, wish: Wish, place: Place) -> Answer:
    path = wish.path.format(
        kv=place.kv, transit=place.transit, secret=place.secret, transit_key=place.transit_key
    )
    options: dict[str, Any] = {} if wish.body is None else {"json": dict(wish.body(place))}
    async with prepared.session(login) as session:
        return await session.call(
            lambda vault: vault.adapter.request(wish.method, f"/v1/{path}", wrap_ttl=wish.wrap_ttl, **options)
        )


class TestPolicies:
    @pytest.mark.parametrize(
        ("wish", "role"),
        [pytest.param(wish, role, id=f"{role}-{wish.name}") for wish in WISHES for role in wish.roles],
    )
    async def test_deny(
        self,
        prepared: Prepared,
        logins: Mapping[VaultRole, VaultLogin],
        place: Place,
        wish: Wish,
        role: VaultRole,
    ) -> None:
        assert (await ask(prepared, logins[role], wish, place)).status == 403

    @pytest.mark.parametrize("wish", [pytest.param(wish, id=wish.name) for wish in WISHES])
    async def test_are_all_that_bars_it(self, prepared: Prepared, place: Place, wish: Wish) -> None:
        answer = await ask(prepared, prepared.root, wish, place)

        assert answer.status != 403
        assert "unsupported" not in str(answer.body)
