"""Sends a canary key in every part of every request, and searches every output for it."""

import asyncio
from uuid import uuid4

import httpx

from tests.support.canary import Detector, Leak, make_canary, variants
from tests.support.canary_requests import raw_requests, requests_with
from tests.support.output_sinks import Sinks
from tests.support.processes.service import Service
from tests.support.provider.fake_anthropic import FakeAnthropic

LABEL = f"label-{uuid4().hex}"


class Attack:
    """Sends the canary key and its variants, and records the responses."""

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

    async def send_everywhere(self, stage: str, *chosen: str) -> None:
        """Send the variants in every part of every request, as HTTP and as malformed HTTP."""
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
                    continue  # httpx refuses this header; the raw requests below send it
                self._record(f"{stage}: {variant} as {sent.name}", response)
            for name, raw in raw_requests(text):
                self.sinks.add(
                    "responses", f"{stage}: {variant} as {name}".encode() + await self._send_raw(raw)
                )

    async def save(self, name: str, *, behaviour: str = "valid") -> str:
        """Save the key in a new organization, call every route that uses it, and return the organization."""
        key, organization = self._texts["key"], f"org_{uuid4().hex[:16]}"
        self._fake.behave(key, behaviour)
        saved = await self._service.save(organization, key, label=LABEL)
        self._record(f"save, {name}", saved)
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
            self._record(f"{name}: {method}", await self._service.request(method, path))
        patched = await self._service.request("PATCH", credential, json={"label": self._texts["key"]})
        self._record("key as the new label", patched)

    async def repeat(self, name: str) -> None:
        """Save the same key again with an Idempotency-Key, twice: a stored response, then a conflict."""
        organization = f"org_{uuid4().hex[:16]}"
        for number in ("1", "1", "2"):
            headers = {"Idempotency-Key": number}
            path = f"/v1/organizations/{organization}/provider-credentials"
            body = {"label": LABEL, "api_key": self._texts["key"]}
            self._record(name, await self._service.request("POST", path, json=body, headers=headers))

    def _record(self, name: str, response: httpx.Response) -> None:
        self.statuses.setdefault(name, set()).add(response.status_code)
        self.sinks.add_response(name, response)

    async def _send_raw(self, request: bytes) -> bytes:
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
