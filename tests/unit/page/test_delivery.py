"""How the page is served: headers, compression, caching, and only what is in the table."""

import gzip
from collections.abc import AsyncIterator
from contextlib import nullcontext
from pathlib import Path

import httpx
import pytest

from app.composition.billing_page import billing_page
from app.core.services import Services
from app.main import create_app
from app.page.document import PageConfig
from app.page.router import BillingPage
from app.settings.environment import load_settings

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'{issuer}; img-src 'self' data:;"
    " base-uri 'none'; form-action 'none'; frame-ancestors {ancestors}; require-trusted-types-for 'script';"
    " trusted-types 'none'"
)


def client_of(page: BillingPage | None) -> httpx.AsyncClient:
    app = create_app(nullcontext(Services()), page=page)
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://byok.test")


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(BillingPage(config=PageConfig())) as client:
        yield client


class TestHead:
    @pytest.mark.parametrize("path", ["/billing", "/billing/callback", "/billing/boot.js", "/docs"])
    async def test_of_a_page_has_the_headers_of_its_get(self, client: httpx.AsyncClient, path: str) -> None:
        got, head = await client.get(path), await client.head(path)

        assert head.status_code == got.status_code == 200
        assert head.headers.keys() == got.headers.keys()
        assert head.headers["content-type"] == got.headers["content-type"]

    async def test_of_an_absent_file_is_not_found(self, client: httpx.AsyncClient) -> None:
        assert (await client.head("/billing/absent.js")).status_code == 404


class TestHeaders:
    async def test_of_the_document_and_the_modules_are_exact(self, client: httpx.AsyncClient) -> None:
        for path in ("/billing", "/billing/boot.js", "/billing/absent.js"):
            headers = (await client.get(path)).headers
            assert headers.get_list("content-security-policy") == [
                POLICY.format(issuer="", ancestors="'none'")
            ], path
            assert headers["cross-origin-opener-policy"] == "same-origin"
            assert (
                headers["permissions-policy"]
                == "clipboard-read=(), camera=(), microphone=(), geolocation=(), display-capture=()"
            )
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["referrer-policy"] == "no-referrer"
            assert headers["cross-origin-resource-policy"] == "same-origin"

    async def test_name_the_issuer_and_the_parents(self) -> None:
        config = PageConfig(
            issuer="https://id.example.com/tenant",
            client_id="byok-page",
            frame_ancestors=["https://app.example.com"],
        )
        async with client_of(BillingPage(config=config)) as client:
            policy = (await client.get("/billing")).headers["content-security-policy"]
        assert policy == POLICY.format(issuer=" https://id.example.com", ancestors="https://app.example.com")

    async def test_of_the_api_stay_as_they_were(self, client: httpx.AsyncClient) -> None:
        policy = (await client.get("/livez")).headers["content-security-policy"]
        assert policy == "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"


class TestFiles:
    async def test_are_compressed_and_revalidated(self, client: httpx.AsyncClient) -> None:
        plain = await client.get("/billing/api.js", headers={"Accept-Encoding": "identity"})
        async with client.stream("GET", "/billing/api.js", headers={"Accept-Encoding": "gzip"}) as packed:
            content = b"".join([part async for part in packed.aiter_raw()])

        assert gzip.decompress(content) == plain.content
        assert plain.headers["cache-control"] == "no-cache"
        again = await client.get("/billing/api.js", headers={"If-None-Match": plain.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")

    @pytest.mark.parametrize(
        "name",
        [
            *("vendor/README.md", "types.d.ts", "tsconfig.json", "../router.py", "%2e%2e/router.py", ""),
            *("vendor/", "boot.js/", "BOOT.js", "vendor/LICENSE.htm"),
        ],
    )
    async def test_outside_the_table_do_not_exist(self, client: httpx.AsyncClient, name: str) -> None:
        response = await client.get(f"/billing/{name}")
        assert (response.status_code, response.json()["code"]) == (404, "not_found")

    async def test_of_the_document_are_never_stored(self, client: httpx.AsyncClient) -> None:
        assert (await client.get("/billing")).headers["cache-control"] == "no-store"
        assert (await client.get("/billing/callback")).headers["cache-control"] == "no-store"

    async def test_a_setting_cannot_add_markup(self) -> None:
        config = PageConfig(issuer="https://id.example.com", client_id='"><script>x</script>')
        async with client_of(BillingPage(config=config)) as client:
            assert "<script>x" not in (await client.get("/billing")).text


class TestSettings:
    def test_the_page_is_on_in_development(self, tmp_path: Path) -> None:
        page = billing_page(load_settings(data_dir=tmp_path))
        assert page is not None
        assert page.sign_in is not None

    def test_the_page_is_off_in_production_unless_enabled(self, tmp_path: Path) -> None:
        production = {
            "environment": "production",
            "data_dir": tmp_path,
            "auth": {"issuer": "https://id.example.com", "jwks_url": "https://id.example.com/jwks"},
            "database": {"url": "postgresql://byok@db.example.com/byok"},
            "vault": {"address": "https://vault.example.com", "token": "t"},
        }
        assert billing_page(load_settings(**production)) is None
        page = billing_page(load_settings(**production, page={"enabled": True, "client_id": "byok-page"}))
        assert page is not None
        assert page.sign_in is None

    async def test_without_the_page_its_paths_do_not_exist(self) -> None:
        async with client_of(None) as client:
            assert (await client.get("/billing")).status_code == 404
