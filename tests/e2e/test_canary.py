"""A key of this run, sent everywhere; then every place where something comes out is searched for it."""

import asyncio
from collections.abc import AsyncIterator
from uuid import uuid4

import httpx
import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine

from tests.canary import Detector, Leak, make_canary, variants
from tests.e2e.canary_requests import raw_requests, requests_with
from tests.e2e.service import Service, running
from tests.e2e.sinks import Sinks, collector, files_of, tables_of
from tests.fake_anthropic import FakeAnthropic, Served

# One of each kind that the provider client tells apart, and those that hand the key back.
BEHAVIOURS = (
    *("valid", "invalid", "echo", "redirect", "redirect303", "html200", "html403", "huge", "err500"),
    *("ratelimited", "overloaded", "orgscoped", "ok200err", "teapot"),
)
LABEL = f"label-{uuid4().hex}"


class Attack:
    """Sends the canaries and keeps what comes back."""

    def __init__(self, service: Service, sinks: Sinks, fake: FakeAnthropic) -> None:
        self._service = service
        self._fake = fake
        self._texts = variants(make_canary())
        self._detector = Detector(self._texts)
        self.sinks = sinks
        self.statuses: dict[str, set[int]] = {}

    @property
    def key(self) -> str:
        return self._texts["key"]

    def leaks(self, sink: str) -> list[Leak]:
        return self.sinks.leaks(self._detector, sink)

    async def everywhere(self, stage: str, *chosen: str) -> None:
        """Variants in every part of every request, by HTTP and by what is hardly HTTP."""
        roles = ("billing-admin", "service")
        tokens = {role: f"Bearer {await self._service.token(role)}".encode() for role in roles}
        for variant in chosen or self._texts:
            text, organization = self._texts[variant], f"org_{uuid4().hex[:16]}"
            for sent in requests_with(text, organization=organization):
                headers = {b"Authorization": tokens[sent.role]} | {
                    name.encode(): value for name, value in sent.headers.items()
                }
                try:
                    response = await self._service.http.request(
                        sent.method, sent.path, headers=headers, content=sent.content
                    )
                except httpx.LocalProtocolError:
                    continue  # a header that can only be sent by hand, as below
                self._note(f"{stage}: {variant} as {sent.name}", response)
            for name, raw in raw_requests(text):
                self.sinks.add("answers", f"{stage}: {variant} as {name}".encode() + await self._raw(raw))

    async def save(self, name: str, *, behaviour: str = "valid") -> str:
        """Save the key in an organization of its own, use it on every route, and return the organization."""
        key, organization = self._texts["key"], f"org_{uuid4().hex[:16]}"
        self._fake.behave(key, behaviour)
        saved = await self._service.save(organization, key, label=LABEL)
        self._note(f"save, {name}", saved)
        if saved.status_code == 201:
            await self.use(name, organization, saved.json()["id"])
        return organization

    async def use(self, name: str, organization: str, credential_id: str) -> None:
        collection = f"/v1/organizations/{organization}/provider-credentials"
        credential = f"{collection}/{credential_id}"
        for method, path in (
            ("POST", f"{credential}/validations"),
            *(("GET", f"{credential}{part}") for part in ("", "/validations", "/versions")),
            ("GET", collection),
            ("GET", f"/v1/organizations/{organization}/audit-events"),
        ):
            self._note(f"{name}: {method}", await self._service.request(method, path))
        patched = await self._service.request("PATCH", credential, json={"label": self._texts["key"]})
        self._note("key as the new label", patched)

    async def repeat(self, name: str) -> None:
        """The same key again, with an Idempotency-Key, twice: kept answers and conflicts."""
        organization = f"org_{uuid4().hex[:16]}"
        for number in ("1", "1", "2"):
            headers = {"Idempotency-Key": number}
            path = f"/v1/organizations/{organization}/provider-credentials"
            body = {"label": LABEL, "api_key": self._texts["key"]}
            self._note(name, await self._service.request("POST", path, json=body, headers=headers))

    def _note(self, name: str, response: httpx.Response) -> None:
        self.statuses.setdefault(name, set()).add(response.status_code)
        self.sinks.answered(name, response)

    async def _raw(self, request: bytes) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._service.port)
        writer.write(request)
        writer.write_eof()
        try:
            async with asyncio.timeout(10):
                return await reader.read()
        except (ConnectionError, TimeoutError):
            return b""
        finally:
            writer.close()


@pytest.fixture(scope="module")
async def attack(provider: Served, fake_anthropic: FakeAnthropic) -> AsyncIterator[Attack]:
    """All of it done, and all sinks collected."""
    sinks = Sinks()
    async with (
        collector(sinks) as endpoint,
        running(
            PROVIDER__DEFAULT_BASE_URL=provider.base_url,
            DEBUG="true",
            JOBS__INTERVAL="1s",
            OTEL_EXPORTER_OTLP_ENDPOINT=endpoint,
        ) as service,
    ):
        attack = Attack(service, sinks, fake_anthropic)
        for behaviour in BEHAVIOURS:
            await attack.save(f"the provider answers {behaviour}", behaviour=behaviour)
        await attack.repeat("Idempotency-Key")
        await attack.everywhere("all is well")
        await with_a_broken_store(service, attack)
        await with_a_broken_table(service, attack)
        sinks.answered("metrics", metrics := await service.http.get("/metrics"))
        sinks.add("metrics", metrics.content)
        await without_postgresql(service, attack)
        await service.start()
        engine = create_async_engine(service.database_url)
        async for relation, rows in tables_of(engine):
            sinks.add("tables", f"{relation}\n{rows}")
        await engine.dispose()
        await service.stop()
        sinks.add("standard output", service.stdout)
        sinks.add("standard error", service.stderr)
        for name, content in files_of(service.home):
            sinks.add("files", name.encode() + b"\n" + content)
        yield attack


class TestRunningService:
    """Whatever is sent to it, and whatever fails behind it."""

    async def test_takes_the_key_only_where_it_belongs(self, attack: Attack) -> None:
        assert attack.statuses["save, the provider answers valid"] == {201}
        assert attack.statuses["key as the new label"] == {422}
        assert attack.statuses["all is well: key as POST feature of an event"] == {200}
        assert attack.statuses["all is well: key as POST feature of an event, as a line"] == {200}
        assert attack.statuses["all is well: key as POST label of the body"] == {422}
        refused = {
            f"all is well: {variant} as POST whole" for variant in ("newline", "trailing space", "U+2011")
        }
        assert {status for name in refused for status in attack.statuses[name]} == {422}

    async def test_failed_in_every_way_that_was_meant(self, attack: Attack) -> None:
        assert attack.statuses["save, no secret store"] == {503}
        assert attack.statuses["save, unforeseen"] == {500}
        assert attack.statuses["save, no database"] == {503}

    @pytest.mark.parametrize("sink", ["answers", "answer headers", "answer bodies"])
    async def test_no_answer_has_it(self, attack: Attack, sink: str) -> None:
        assert attack.sinks.hold("answer bodies", LABEL)
        assert attack.leaks(sink) == []

    @pytest.mark.parametrize("sink", ["standard output", "standard error"])
    async def test_no_line_of_the_process_has_it(self, attack: Attack, sink: str) -> None:
        assert attack.sinks.hold("standard error", "unhandled")
        assert attack.sinks.hold("standard output", "Pharaoh BYOK")
        assert attack.leaks(sink) == []

    async def test_no_span_has_it(self, attack: Attack) -> None:
        assert attack.sinks.hold("spans", "/v1/organizations/{organization_id}/provider-credentials")
        assert attack.leaks("spans") == []

    async def test_no_metric_has_it(self, attack: Attack) -> None:
        assert attack.sinks.hold("metrics", 'route="unknown"')
        assert attack.leaks("metrics") == []

    async def test_no_table_of_any_schema_has_it(self, attack: Attack) -> None:
        assert attack.sinks.hold("tables", LABEL)
        assert attack.sinks.hold("tables", "public.sealed_secret")
        assert attack.leaks("tables") == []

    async def test_no_file_has_it(self, attack: Attack) -> None:
        assert attack.sinks.hold("files", LABEL)
        assert attack.leaks("files") == []


async def with_a_broken_store(service: Service, attack: Attack) -> None:
    """Sealed keys that do not open, then a table that cannot be written."""
    organization = await attack.save("before the store breaks")
    listed = await service.request("GET", f"/v1/organizations/{organization}/provider-credentials")
    await as_owner(service, "UPDATE sealed_secret SET sealed = sealed || '\\x00'")
    await attack.use("corrupt secret", organization, listed.json()["data"][0]["id"])
    await as_owner(service, "REVOKE ALL ON sealed_secret FROM byok_service")
    await attack.save("no secret store")
    await as_owner(service, "GRANT SELECT, INSERT, UPDATE ON sealed_secret TO byok_service")


async def with_a_broken_table(service: Service, attack: Attack) -> None:
    """What nobody foresaw: the service answers 500."""
    await as_owner(service, "ALTER TABLE credential_validation RENAME TO elsewhere")
    await attack.save("unforeseen")
    await as_owner(service, "ALTER TABLE elsewhere RENAME TO credential_validation")


async def without_postgresql(service: Service, attack: Attack) -> None:
    await service.lose_postgresql()
    await attack.save("no database")
    await attack.everywhere("no database", "key")
    await service.kill()


async def as_owner(service: Service, statement: str) -> None:
    engine = create_async_engine(service.database_url)
    async with engine.begin() as connection:
        await connection.execute(sa.text(statement))
    await engine.dispose()
