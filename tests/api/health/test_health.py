"""Liveness, readiness, metrics, and the OpenAPI document with its page."""

import asyncio
import json
from html.parser import HTMLParser
from pathlib import Path

import httpx
import pytest

from app.core.errors import DatabaseUnavailable
from app.core.secret_store_errors import SecretStoreSealed
from app.core.services import Services
from app.health.service import HealthService, Ping
from tests.support.service_builder import client_of
from tests.support.tenant import Tenant

OPENAPI = Path(__file__).parents[3] / "openapi" / "openapi.json"
METRICS = {
    "byok_http_requests",
    "byok_http_request_seconds",
    "byok_validations",
    "byok_provider_seconds",
    "byok_event_loop_lag_seconds",
    "byok_swept",
    "byok_database_connections_in_use",
}


async def _responds() -> None: ...


async def _database_is_down() -> None:
    raise DatabaseUnavailable


async def _secret_store_is_down() -> None:
    raise SecretStoreSealed


async def _hangs() -> None:
    await asyncio.Event().wait()


async def _raises_an_unexpected_error() -> None:
    raise LookupError


class TestLivez:
    async def test_responds_without_a_token(self, http: httpx.AsyncClient) -> None:
        response = await http.get("/livez")

        assert (response.status_code, response.json()) == (200, {"status": "ok"})


class TestReadyz:
    @pytest.mark.parametrize("path", ["/livez", "/readyz"])
    async def test_responds_to_head(self, http: httpx.AsyncClient, path: str) -> None:
        assert (await http.head(path)).status_code == 200

    async def test_reports_every_dependency_as_up(self, http: httpx.AsyncClient) -> None:
        response = await http.get("/readyz")

        assert response.status_code == 200
        assert response.json() == {
            "status": "ready",
            "dependencies": {"database": "up", "secret_store": "up"},
            "problems": {},
        }

    @pytest.mark.parametrize(
        ("down", "code"), [("database", "database_unavailable"), ("secret_store", "secret_store_sealed")]
    )
    async def test_names_the_dependency_that_is_down(self, services: Services, down: str, code: str) -> None:
        pings = {"database": _database_is_down, "secret_store": _secret_store_is_down}
        health = HealthService({name: ping if name == down else _responds for name, ping in pings.items()})

        async with client_of(services.replacing(health)) as client:
            response = await client.get("/readyz")
            alive = await client.get("/livez")

        assert response.status_code == 503
        assert response.json()["status"] == "not_ready"
        assert [name for name, state in response.json()["dependencies"].items() if state == "down"] == [down]
        assert response.json()["problems"] == {down: code}
        assert alive.status_code == 200

    @pytest.mark.parametrize(
        ("ping", "code"), [(_hangs, "secret_store_timeout"), (_raises_an_unexpected_error, "internal_error")]
    )
    async def test_reports_pings_that_hang_or_raise(self, services: Services, ping: Ping, code: str) -> None:
        health = HealthService({"secret_store": ping}, timeout_seconds=0.01)

        async with client_of(services.replacing(health)) as client:
            response = await client.get("/readyz")

        assert (response.status_code, response.json()["problems"]) == (503, {"secret_store": code})


class TestMetrics:
    async def test_keep_their_names(self, http: httpx.AsyncClient) -> None:
        response = await http.get("/metrics")

        assert response.headers["Content-Type"].startswith("text/plain")
        declared = {line.split()[2] for line in response.text.splitlines() if line.startswith("# TYPE")}
        assert {f"{name}_total" if f"{name}_total" in declared else name for name in METRICS} <= declared

    async def test_contain_no_organization_credential_or_path(self, tenant: Tenant) -> None:
        credential = await tenant.created()
        await tenant.get(f"{tenant.credentials}/{credential['id']}")
        await tenant.get(f"{tenant.path}/no-such-thing")

        text = (await tenant.http.get("/metrics")).text

        assert 'route="/v1/organizations/{organization_id}/provider-credentials/{credential_id}"' in text
        assert 'route="unknown"' in text
        for private in (tenant.organization, credential["id"], "no-such-thing", "example.com"):
            assert private not in text

    async def test_count_unknown_methods_together(self, http: httpx.AsyncClient) -> None:
        await http.request("BREW", "/livez")

        assert "BREW" not in (await http.get("/metrics")).text


class _Elements(HTMLParser):
    """Collects the names of a page's elements and the resources that it would load."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.loaded: list[str | None] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)
        self.loaded += [value for name, value in attributes if name == "src" or name.startswith("on")]


class TestDocument:
    async def test_equals_the_file_in_the_repository(self, http: httpx.AsyncClient) -> None:
        response = await http.get("/openapi.json")

        assert response.json() == json.loads(OPENAPI.read_text())

    async def test_page_lists_every_path_and_runs_no_code(self, http: httpx.AsyncClient) -> None:
        response = await http.get("/docs")

        page = _Elements()
        page.feed(response.text)
        assert page.names.isdisjoint({"script", "iframe", "object", "embed", "link", "img", "form"})
        assert page.loaded == []
        operations = json.loads(OPENAPI.read_text())["paths"]
        assert all(path in response.text for path in operations)

    async def test_requires_a_token_for_every_private_operation(self) -> None:
        document = json.loads(OPENAPI.read_text())

        for path, item in document["paths"].items():
            for operation in item.values():
                assert bool(operation["security"]) == path.startswith("/v1/")
                assert "401" in operation["responses"] or not path.startswith("/v1/")
