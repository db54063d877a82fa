"""The canary test in process: log records before redaction, spans as objects, and a proof that leaks are found."""

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

from app.composition.bootstrap import open_services
from app.composition.database_access import DatabaseAccess
from app.core.services import Services
from app.observability.metrics import REQUESTS, metrics_text
from app.settings.settings import Settings
from tests.support.canary import Detector, make_canary, variants
from tests.support.canary_requests import requests_with
from tests.support.output_sinks import (
    Sinks,
    capture_logs,
    capture_spans,
    files_of,
    next_transaction,
    tables_of,
)
from tests.support.provider.hostile_provider import RESPONSES, hostile_provider
from tests.support.service_builder import client_of
from tests.support.tenant import MakeToken, Tenant


@pytest.fixture
def texts() -> dict[str, str]:
    return variants(make_canary())


@pytest.fixture
def detector(texts: dict[str, str]) -> Detector:
    return Detector(texts)


@pytest.fixture
def sinks() -> Iterator[Sinks]:
    sinks = Sinks()
    with capture_logs(sinks), capture_spans(sinks):
        yield sinks


@pytest.fixture
async def services_with_hostile_provider(
    settings: Settings, access: DatabaseAccess
) -> AsyncIterator[Services]:
    """Services that use the hostile provider."""
    async with hostile_provider() as base_url:
        provider = settings.provider.model_copy(update={"default_base_url": base_url})
        async with open_services(settings.model_copy(update={"provider": provider}), access) as services:
            yield services


class TestNoLeaks:
    async def test_key_in_any_request_is_not_logged(
        self,
        services: Services,
        make_token: MakeToken,
        sinks: Sinks,
        texts: dict[str, str],
        detector: Detector,
    ) -> None:
        organization = f"org_{uuid4().hex[:16]}"
        tokens = {
            # A token for all organizations, so that the routes for internal services also read the body.
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
                    sinks.add_response(sent.name, response)

        assert sinks.contains("log records", organization)
        assert sinks.contains("spans", "/v1/organizations/{organization_id}/provider-credentials")
        assert sinks.leaks(detector) == []

    async def test_key_in_any_provider_response_is_not_logged(  # pytest passes fixtures by name
        self,
        services_with_hostile_provider: Services,
        make_token: MakeToken,
        sinks: Sinks,
        texts: dict[str, str],
        detector: Detector,
        superuser: AsyncEngine,
    ) -> None:
        before = await next_transaction(superuser)
        async with client_of(services_with_hostile_provider) as http:
            for auth_style in ("x_api_key", "bearer"):
                for _ in RESPONSES:
                    organization = f"org_{uuid4().hex[:16]}"
                    tenant = Tenant(
                        http=http, organization=organization, token=make_token(organization=organization)
                    )
                    response = await tenant.create(api_key=texts["key"], auth_style=auth_style)
                    sinks.add_response("save", response)
                    sinks.add_response("read", await tenant.get(tenant.credentials))
        async for relation, rows in tables_of(superuser, since=before):
            sinks.add("tables", f"{relation}\n{rows}")

        assert sinks.contains("response bodies", '"status":"in')
        assert sinks.contains("tables", organization)
        assert sinks.leaks(detector) == []


class TestDetection:
    async def test_leaking_route_is_found_in_every_output(  # pytest passes fixtures by name
        self,
        services: Services,
        make_token: MakeToken,
        sinks: Sinks,
        texts: dict[str, str],
        detector: Detector,
        superuser: AsyncEngine,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        table, before = f"leak_{uuid4().hex}", await next_transaction(superuser)

        async def leak(request: Request) -> Response:
            key = (await request.json())["api_key"]
            structlog.get_logger("byok.leak").debug("leak", key=key)
            logging.getLogger("some.library").debug("%s", key)
            trace.get_current_span().set_attribute("leak", key)
            REQUESTS.labels("GET", key, "200").inc()
            (tmp_path / "leak").write_text(key)
            async with superuser.begin() as connection:
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
        sinks.add_response("leak", response)
        sinks.add("standard output", capsys.readouterr().out)
        sinks.add("metrics", metrics_text())
        async for relation, rows in tables_of(superuser, since=before):
            sinks.add("tables", f"{relation}\n{rows}")
        for name, content in files_of(tmp_path):
            sinks.add("files", f"{name}\n".encode() + content)
        REQUESTS.remove("GET", texts["key"], "200")
        async with superuser.begin() as connection:
            await connection.execute(sa.text(f"DROP TABLE {table}"))

        found = {leak.sink for leak in sinks.leaks(detector)}

        assert found == {
            *("response bodies", "response headers", "log records", "spans"),
            *("standard output", "metrics", "tables", "files"),
        }
