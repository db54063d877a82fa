"""What `byok doctor` finds out about an identity provider."""

import json
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, SECP384R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from app.egress.http_client import http_client
from app.egress.issuer_check import IssuerMatch, IssuerReport, KeysProblem, inspect_issuer
from tests.support.network.document_server import DocumentServer, serving_documents
from tests.support.network.fake_issuer import jwk

USABLE = jwk(Ed25519PrivateKey.generate().public_key(), "one")
UNUSABLE = jwk(generate_private_key(SECP384R1()).public_key(), "two")
DISCOVERY = "/realms/acme/.well-known/openid-configuration"


@pytest.fixture
async def provider() -> AsyncIterator[DocumentServer]:
    async with serving_documents() as server:
        yield server


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    async with http_client() as client:
        yield client


async def report(http: httpx.AsyncClient, provider: DocumentServer, *, slash: str = "") -> IssuerReport:
    return await inspect_issuer(
        http, issuer=f"{provider.url}/realms/acme{slash}", jwks_url=f"{provider.url}/keys"
    )


class TestKeys:
    async def test_counts_the_usable_ones(self, http: httpx.AsyncClient, provider: DocumentServer) -> None:
        second = jwk(generate_private_key(SECP256R1()).public_key(), "three")
        provider.documents["/keys"] = {"keys": [USABLE, UNUSABLE, second]}

        found = await report(http, provider)

        assert (found.keys_problem, found.usable_keys) == (None, 2)

    @pytest.mark.parametrize(
        ("document", "problem"),
        [
            ({"keys": [UNUSABLE]}, KeysProblem.NO_USABLE_KEY),
            ({"keys": []}, KeysProblem.NO_USABLE_KEY),
            ({"issuer": "x", "jwks_uri": "https://id.example.com/keys"}, KeysProblem.DISCOVERY_DOCUMENT),
            ({"keys": "none"}, KeysProblem.NOT_A_JWKS),
            ("text", KeysProblem.NOT_A_JWKS),
            (["keys"] * 100_000, KeysProblem.TOO_LARGE),
        ],
    )
    async def test_names_why_there_is_none(
        self, http: httpx.AsyncClient, provider: DocumentServer, document: Any, problem: KeysProblem
    ) -> None:
        provider.documents["/keys"] = document

        found = await report(http, provider)

        assert (found.keys_problem, found.usable_keys) == (problem, 0)

    async def test_names_a_wrong_path(self, http: httpx.AsyncClient, provider: DocumentServer) -> None:
        assert (await report(http, provider)).keys_problem is KeysProblem.STATUS

    async def test_names_an_unreachable_server(self, http: httpx.AsyncClient) -> None:
        found = await inspect_issuer(http, issuer="http://127.0.0.1:9", jwks_url="http://127.0.0.1:9/keys")

        assert found.keys_problem is KeysProblem.UNREACHABLE
        assert found.issuer is IssuerMatch.UNKNOWN

    @pytest.mark.parametrize("url", ["https://xn--a.example.com", "https://id.example.com\u200b"])
    async def test_names_a_host_that_cannot_exist(self, http: httpx.AsyncClient, url: str) -> None:
        found = await inspect_issuer(http, issuer=url, jwks_url=url)

        assert (found.keys_problem, found.issuer) == (KeysProblem.UNREACHABLE, IssuerMatch.UNKNOWN)


class TestIssuer:
    @pytest.mark.parametrize(
        ("published", "configured", "match"),
        [
            ("", "", IssuerMatch.SAME),
            ("/", "/", IssuerMatch.SAME),
            ("/", "", IssuerMatch.SLASH),
            ("", "/", IssuerMatch.SLASH),
            ("/v2.0", "", IssuerMatch.DIFFERENT),
            ("/{tenantid}/v2.0", "", IssuerMatch.TEMPLATE),
            ("/{tenantid}/v2.0", "/{tenantid}/v2.0", IssuerMatch.TEMPLATE),
        ],
    )
    async def test_is_compared_with_the_discovery_document(
        self,
        http: httpx.AsyncClient,
        provider: DocumentServer,
        published: str,
        configured: str,
        match: IssuerMatch,
    ) -> None:
        path = f"/realms/acme{quote(configured.rstrip('/'))}/.well-known/openid-configuration"
        provider.documents[path] = {"issuer": f"{provider.url}/realms/acme{published}"}

        assert (await report(http, provider, slash=configured)).issuer is match

    async def test_is_found_where_rfc_8414_has_it(
        self, http: httpx.AsyncClient, provider: DocumentServer
    ) -> None:
        provider.documents["/.well-known/oauth-authorization-server/realms/acme"] = {
            "issuer": f"{provider.url}/realms/acme",
            "jwks_uri": f"{provider.url}/other",
        }

        found = await report(http, provider)

        assert (found.issuer, found.jwks_uri_matches) == (IssuerMatch.SAME, False)

    async def test_is_unknown_without_a_document(
        self, http: httpx.AsyncClient, provider: DocumentServer
    ) -> None:
        provider.documents[DISCOVERY] = json.loads("[1]")

        assert (await report(http, provider)).issuer is IssuerMatch.UNKNOWN
