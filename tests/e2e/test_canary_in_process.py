"""The same, looking from inside: log records before redaction, spans as objects. And the proof that it finds."""

import logging
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from uuid import uuid4

import pytest
import sqlalchemy as sa
import structlog
from fastapi import FastAPI, Request, Response
from opentelemetry import trace
from sqlalchemy.ext.asyncio import AsyncEngine

from app.composition.bootstrap import DatabaseAccess, open_services
from app.core.services import Services
from app.observability.metrics import REQUESTS, metrics_text
from app.settings.environment import Settings
from tests.assembly import client_of
from tests.canary import Detector, make_canary, variants
from tests.conftest import MakeToken, Tenant
from tests.e2e.canary_requests import requests_with
from tests.e2e.hostile_provider import ANSWERS, hostile_provider
from tests.e2e.sinks import Sinks, files_of, logged, tables_of, traced


@pytest.fixture
def texts() -> dict[str, str]:
    return variants(make_canary())


@pytest.fixture
def detector(texts: dict[str, str]) -> Detector:
    return Detector(texts)


@pytest.fixture
def sinks() -> Iterator[Sinks]:
    sinks = Sinks()
    with logged(sinks), traced(sinks):
        yield sinks


@pytest.fixture
async def betrayed(settings: Settings, access: DatabaseAccess) -> AsyncIterator[Services]:
    """Services whose provider is hostile."""
    async with hostile_provider() as base_url:
        provider = settings.provider.model_copy(update={"default_base_url": base_url})
        async with open_services(settings.model_copy(update={"provider": provider}), access) as services:
            yield services


class TestInside:
    async def test_no_record_or_span_has_it_wherever_it_is_sent(
        self,
        services: Services,
        make_token: MakeToken,
        sinks: Sinks,
        texts: dict[str, str],
        detector: Detector,
    ) -> None:
        organization = f"org_{uuid4().hex[:16]}"
        tokens = {
            # Of every organization: so the routes for internal services read the body too.
            "billing-admin": f"Bearer {make_token()}".encode(),
            "service": f"Bearer {make_token('service')}".encode(),
        }

        async with client_of(services) as http:
            for text in texts.values():
                for sent in requests_with(text, organization=organization):
                    headers = {b"Authorization": tokens[sent.role]} | {
                        n.encode(): v for n, v in sent.headers.items()
                    }
                    response = await http.request(
                        sent.method, sent.path, headers=headers, content=sent.content
                    )
                    sinks.answered(sent.name, response)

        assert sinks.hold("log records", organization)
        assert sinks.hold("spans", "/v1/organizations/{organization_id}/provider-credentials")
        assert sinks.leaks(detector) == []

    async def test_no_record_or_span_has_it_whatever_the_provider_hands_back(  # pytest passes fixtures by name
        self,
        betrayed: Services,
        make_token: MakeToken,
        sinks: Sinks,
        texts: dict[str, str],
        detector: Detector,
        owner: AsyncEngine,
    ) -> None:
        async with client_of(betrayed) as http:
            for auth_style in ("x_api_key", "bearer"):
                for _ in ANSWERS:
                    organization = f"org_{uuid4().hex[:16]}"
                    tenant = Tenant(
                        http=http, organization=organization, token=make_token(organization=organization)
                    )
                    response = await tenant.create(api_key=texts["key"], auth_style=auth_style)
                    sinks.answered("save", response)
                    sinks.answered("read", await tenant.get(tenant.credentials))
        async for relation, rows in tables_of(owner):
            sinks.add("tables", f"{relation}\n{rows}")

        assert sinks.hold("answer bodies", '"status":"in')
        assert sinks.hold("tables", organization)
        assert sinks.leaks(detector) == []


class TestProof:
    async def test_a_leaking_route_turns_every_sink_red(  # pytest passes fixtures by name
        self,
        services: Services,
        make_token: MakeToken,
        sinks: Sinks,
        texts: dict[str, str],
        detector: Detector,
        owner: AsyncEngine,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        table = f"leak_{uuid4().hex}"

        async def leak(request: Request) -> Response:
            key = (await request.json())["api_key"]
            structlog.get_logger("byok.leak").debug("leak", key=key)
            logging.getLogger("some.library").debug("%s", key)
            trace.get_current_span().set_attribute("leak", key)
            REQUESTS.labels("GET", key, "200").inc()
            (tmp_path / "leak").write_text(key)
            async with owner.begin() as connection:
                await connection.execute(sa.text(f"CREATE TABLE {table} AS SELECT '{key}'::bytea AS leak"))
            print(key)
            return Response(key, headers={"X-Leak": key})

        def mount(app: FastAPI) -> None:
            app.add_api_route("/v1/leak", leak, methods=["POST"])

        async with client_of(services, extend=mount) as http:
            response = await http.post(
                "/v1/leak",
                json={"api_key": texts["key"]},
                headers={"Authorization": f"Bearer {make_token()}"},
            )
        sinks.answered("leak", response)
        sinks.add("standard output", capsys.readouterr().out)
        sinks.add("metrics", metrics_text())
        async for relation, rows in tables_of(owner):
            sinks.add("tables", f"{relation}\n{rows}")
        for name, content in files_of(tmp_path):
            sinks.add("files", f"{name}\n".encode() + content)
        REQUESTS.remove("GET", texts["key"], "200")
        async with owner.begin() as connection:
            await connection.execute(sa.text(f"DROP TABLE {table}"))

        found = {leak.sink for leak in sinks.leaks(detector)}

        assert found == {
            *("answer bodies", "answer headers", "log records", "spans"),
            *("standard output", "metrics", "tables", "files"),
        }
