"""A part of the key in another field of its request, or of the stored key in a new label, is rejected and not stored."""

import base64
import secrets
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.core.services import Services
from app.database.engine import Database
from app.database.unit_of_work import UnitsOfWork
from app.egress.anthropic import AnthropicClient
from tests.support.database.rows import fetch
from tests.support.fakes import FakeSecretStore
from tests.support.provider.fake_anthropic import make_key
from tests.support.requests.rotation import post_rotation
from tests.support.service_builder import assemble, client_of
from tests.support.tenant import Tenant

BASE_URL = "https://gw.example.com"

Place = Callable[[str], dict[str, Any]]


def opaque_key() -> str:
    """A key of another provider, without a prefix by which it could be recognized."""
    return base64.urlsafe_b64encode(secrets.token_bytes(45)).decode().replace("-", "A").replace("_", "B")


def percent_encoded(text: str) -> str:
    return "".join(f"%{ord(character):02x}" for character in text)


PLACES: dict[str, Place] = {
    "label": lambda part: {"label": f"key {part}"[:80]},
    "workspace_id": lambda part: {"workspace_id": part},
    "probe_model": lambda part: {"probe_model": f"vendor/{part}"},
    "base_url path": lambda part: {"base_url": f"{BASE_URL}/{part}/anthropic"},
    "base_url percent-encoded": lambda part: {"base_url": f"{BASE_URL}/{percent_encoded(part)}"},
    "base_url twice encoded": lambda part: {
        "base_url": f"{BASE_URL}/{percent_encoded(percent_encoded(part))}"
    },
    "base_url host": lambda part: {"base_url": f"https://{part}.example.com"},
}
PARTS: dict[str, Callable[[str], str]] = {
    "whole": lambda key: key,
    "without its beginning": lambda key: key[13:],
    "12 characters": lambda key: key[20:32],
    "other case": lambda key: key[-30:].swapcase(),
}


async def saved(superuser: AsyncEngine, tenant: Tenant) -> Any:
    statement = "SELECT 1 FROM provider_credential WHERE organization_id = :o"
    return await fetch(superuser, statement, o=tenant.organization)


@pytest.mark.usefixtures("uncalled_provider")
class TestCreate:
    @pytest.mark.parametrize("part", PARTS)
    @pytest.mark.parametrize("place", PLACES)
    async def test_rejects_the_key_in_another_field(
        self, tenant: Tenant, superuser: AsyncEngine, place: str, part: str
    ) -> None:
        key = opaque_key()
        text = PARTS[part](key)

        response = await tenant.create(api_key=key, **({"base_url": BASE_URL} | PLACES[place](text)))

        assert (response.status_code, response.json()["code"]) == (422, "looks_like_key")
        assert [error["field"] for error in response.json()["errors"]] == [place.split(maxsplit=1)[0]]
        assert text not in response.text
        assert await saved(superuser, tenant) == []

    @pytest.mark.parametrize("part", [name for name in PARTS if name != "whole"])
    @pytest.mark.parametrize("place", ["label", "workspace_id", "probe_model"])
    async def test_rejects_a_claude_api_key_without_its_prefix(
        self, tenant: Tenant, superuser: AsyncEngine, place: str, part: str
    ) -> None:
        key = make_key()

        response = await tenant.create(api_key=key, **PLACES[place](PARTS[part](key)))

        assert (response.status_code, response.json()["code"]) == (422, "looks_like_key")
        assert await saved(superuser, tenant) == []

    async def test_accepts_11_characters_that_are_equal_by_chance(self, tenant: Tenant) -> None:
        key = opaque_key()

        response = await tenant.create(api_key=f"{key} ", label=f"key {key[:11]}")

        assert response.json()["code"] == "key_has_whitespace"


class TestRotate:
    @pytest.mark.parametrize("part", PARTS)
    @pytest.mark.parametrize(
        "place", ["workspace_id", "probe_model", "base_url path", "base_url percent-encoded"]
    )
    async def test_rejects_the_new_key_in_another_field(self, tenant: Tenant, place: str, part: str) -> None:
        path = (await tenant.create()).headers["Location"]
        key = opaque_key()

        rotation = await post_rotation(
            tenant, path, api_key=key, **({"base_url": BASE_URL} | PLACES[place](PARTS[part](key)))
        )

        assert (rotation.status_code, rotation.json()["code"]) == (422, "looks_like_key")
        assert rotation.json()["errors"][0]["field"] == place.split(maxsplit=1)[0]
        assert len((await tenant.get(f"{path}/versions")).json()["data"]) == 1


class TestPatch:
    @pytest.mark.parametrize("part", ["without its beginning", "12 characters", "other case"])
    async def test_rejects_a_label_with_a_part_of_the_stored_key(self, tenant: Tenant, part: str) -> None:
        key = make_key()
        created = await tenant.create(api_key=key)
        path = created.headers["Location"]

        patched = await tenant.patch(path, json={"label": f"key {PARTS[part](key)}"[:80]})

        assert (patched.status_code, patched.json()["code"]) == (422, "looks_like_key")
        assert patched.json()["errors"][0]["field"] == "label"
        assert (await tenant.get(path)).json() == created.json()

    async def test_rejects_a_label_with_a_part_of_the_previous_key(self, tenant: Tenant) -> None:
        key = make_key()
        path = (await tenant.create(api_key=key)).headers["Location"]
        assert (await post_rotation(tenant, path)).status_code == 201

        patched = await tenant.patch(path, json={"label": f"was {key[30:60]}"})

        assert (patched.status_code, patched.json()["code"]) == (422, "looks_like_key")

    async def test_accepts_a_long_word_that_is_no_part_of_the_key(self, tenant: Tenant) -> None:
        path = (await tenant.create()).headers["Location"]

        patched = await tenant.patch(path, json={"label": "Kubernetes-production-eu-central-1"})

        assert patched.status_code == 200

    async def test_asks_the_secret_store_only_for_long_words(
        self, tenant: Tenant, services: Services, database: Database, prober: AnthropicClient
    ) -> None:
        path = (await tenant.create()).headers["Location"]
        store = FakeSecretStore()
        store.unavailable = True
        unavailable = assemble(services, units=UnitsOfWork(database), store=store, prober=prober)

        async with client_of(unavailable) as http:
            headers = {"Authorization": f"Bearer {tenant.token}"}
            short = await http.patch(path, json={"label": "Acme EU"}, headers=headers)
            long = await http.patch(path, json={"label": "Kubernetes-production"}, headers=headers)

        assert short.status_code == 200
        assert (long.status_code, long.json()["code"]) == (503, "secret_store_unavailable")
