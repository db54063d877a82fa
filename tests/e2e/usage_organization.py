"""One organization of the scenario: how it is spoken to over HTTP, and what is remembered of the answers."""

import itertools
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import datetime
from random import Random
from typing import Any

import httpx

from tests.e2e.service import Service
from tests.e2e.usage_events import Event, Events
from tests.fake_anthropic import make_key
from tests.usage_oracle import Known
from tests.usage_oracle_statements import Terms
from tests.usage_oracle_sums import Held, pico

Json = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """What became of one event of one request; `status` is "unknown" where the request failed."""

    event: Event
    status: str
    code: str | None
    sent_at: datetime
    answered_at: datetime


@dataclass(frozen=True, kw_only=True)
class Scheduled:
    """A switch that was to come, and between which instants it was replaced, if it was."""

    at: datetime
    mode: str
    credential_id: str | None
    replaced: tuple[datetime, datetime] | None = None


@dataclass(kw_only=True)
class Organization:
    """Requests go to the processes in turn."""

    name: str
    random: Random
    services: list[Service]
    known: Known = field(default_factory=Known)
    attempts: list[Attempt] = field(default_factory=list)
    switched: list[Json] = field(default_factory=list)
    scheduled: list[Scheduled] = field(default_factory=list)
    reservations: dict[str, Json] = field(default_factory=dict)
    released: set[str] = field(default_factory=set)
    terms: Terms | None = None
    terms_of_closed: Terms | None = None
    counts: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    closed: dict[str, datetime] = field(default_factory=dict)
    closed_as: Json = field(default_factory=dict)
    differences: list[str] = field(default_factory=list)
    compared: int = 0
    in_flight: int = 0
    accepted: int = 0
    _turn: Any = field(default_factory=itertools.count)
    _events: Events | None = None

    @property
    def path(self) -> str:
        return f"/v1/organizations/{self.name}"

    @property
    def events(self) -> Events:
        assert self._events is not None
        return self._events

    async def request(
        self, method: str, path: str, *, role: str = "billing-admin", **options: Any
    ) -> httpx.Response:
        service = self.services[next(self._turn) % len(self.services)]
        headers = {"Authorization": f"Bearer {await self.services[0].token(role)}"} | options.pop(
            "headers", {}
        )
        response: httpx.Response = await service.http.request(
            method, f"{self.path}{path}", headers=headers, **options
        )
        return response

    async def answer(self, method: str, path: str, **options: Any) -> Json:
        response = await self.request(method, path, **options)
        assert response.status_code in {200, 201}, response.text
        found: Json = response.json()
        return found

    def differ(self, what: str, about: object = "", *, expected: Any, found: Any) -> None:
        """Note what was compared, and how it differs where it does."""
        self.compared += 1
        if expected != found:
            if isinstance(expected, dict) and isinstance(found, dict):
                names = [name for name in expected | found if expected.get(name) != found.get(name)]
                expected, found = ({name: it.get(name) for name in names} for it in (expected, found))
            self.differences.append(f"{self.name} {what} {about}: expected {expected!r}, found {found!r}")

    async def begin(self, edges: list[datetime]) -> None:
        """Two credentials, of which one has had its key replaced."""
        ids = []
        for label in ("first", "second"):
            body = {"label": label, "api_key": make_key()}
            ids.append((await self.answer("POST", "/provider-credentials", json=body))["id"])
        replaced = {"api_key": make_key(), "activate": "immediately", "destroy_previous": "after_retention"}
        await self.answer("POST", f"/provider-credentials/{ids[0]}/rotations", json=replaced)
        self._events = Events(random=self.random, edges=edges, credentials=ids)
        for credential_id in ids:
            found = await self.answer("GET", f"/provider-credentials/{credential_id}/versions")
            self.known.versions[credential_id] = [
                (datetime.fromisoformat(it["activated_at"]), it["key_version"]) for it in found["data"]
            ]
            self.events.hot += [at for at, _ in self.known.versions[credential_id]]

    def held(self, settled: set[str]) -> list[Held]:
        return [
            Held(
                usage_mode=it["usage_mode"],
                model=it["model"],
                endpoint_id=it["endpoint_id"],
                feature=it["feature"],
                amount=0 if it["amount"] is None else pico(it["amount"]),
                created_at=datetime.fromisoformat(it["created_at"]),
            )
            for reservation_id, it in self.reservations.items()
            if reservation_id not in settled | self.released
        ]

    def estimate_of(self, reservation: Json) -> int | None:
        """What a reservation of tokens must have put aside."""
        wish = reservation["wish"]
        at = datetime.fromisoformat(reservation["created_at"])
        return self.known.estimate(wish["model"], wish["input_tokens"], wish["max_output_tokens"], at)
