"""An HTTP client for one organization of the usage scenario, with the recorded responses."""

import itertools
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import datetime
from random import Random
from typing import Any

import httpx

from tests.support.oracles.usage import OrganizationState
from tests.support.oracles.usage_statements import Terms
from tests.support.oracles.usage_totals import OpenReservation, pico
from tests.support.processes.service import Service
from tests.support.provider.fake_anthropic import make_key
from tests.support.usage.random_events import Event, Events

Json = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class SentEvent:
    """One event of one request and its result. `status` is "unknown" if the request failed."""

    event: Event
    status: str
    code: str | None
    sent_at: datetime
    responded_at: datetime


@dataclass(frozen=True, kw_only=True)
class ScheduledChange:
    """A scheduled usage mode change. `replaced`: start and end of the request that replaced it, if there was one."""

    at: datetime
    mode: str
    credential_id: str | None
    replaced: tuple[datetime, datetime] | None = None


@dataclass(kw_only=True)
class OrganizationClient:
    """Distributes requests over the service processes, and records what the oracle needs."""

    name: str
    random: Random
    services: list[Service]
    state: OrganizationState = field(default_factory=OrganizationState)
    sent_events: list[SentEvent] = field(default_factory=list)
    applied_changes: list[Json] = field(default_factory=list)
    scheduled: list[ScheduledChange] = field(default_factory=list)
    reservations: dict[str, Json] = field(default_factory=dict)
    released: set[str] = field(default_factory=set)
    terms: Terms | None = None
    terms_of_closed: Terms | None = None
    counts: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    closed: dict[str, datetime] = field(default_factory=dict)
    closed_as: Json = field(default_factory=dict)
    differences: list[str] = field(default_factory=list)
    compared: int = 0
    # Events are sent to these processes too, which are killed and started again meanwhile.
    killed_services: list[Service] = field(default_factory=list)
    in_flight: int = 0
    # Events that add a request: that a response reported as accepted, and that a lost response may have.
    accepted: int = 0
    perhaps_accepted: int = 0
    _service_index: Any = field(default_factory=itertools.count)
    _events: Events | None = None

    @property
    def corrections(self) -> int:
        """The number of corrections that a response reported as accepted."""
        return sum("corrects" in one.event and one.status == "accepted" for one in self.sent_events)

    @property
    def path(self) -> str:
        return f"/v1/organizations/{self.name}"

    @property
    def events(self) -> Events:
        assert self._events is not None
        return self._events

    async def request(
        self,
        method: str,
        path: str,
        *,
        role: str = "billing-admin",
        services: list[Service] | None = None,
        **options: Any,
    ) -> httpx.Response:
        services = services or self.services
        service = services[next(self._service_index) % len(services)]
        headers = {"Authorization": f"Bearer {await self.services[0].token(role)}"} | options.pop(
            "headers", {}
        )
        response: httpx.Response = await service.http.request(
            method, f"{self.path}{path}", headers=headers, **options
        )
        return response

    async def request_json(self, method: str, path: str, **options: Any) -> Json:
        response = await self.request(method, path, **options)
        assert response.status_code in {200, 201}, response.text
        found: Json = response.json()
        return found

    def expect_equal(self, what: str, about: object = "", *, expected: Any, found: Any) -> None:
        """Count a comparison and record the difference, if there is one."""
        self.compared += 1
        if expected != found:
            if isinstance(expected, dict) and isinstance(found, dict):
                names = [name for name in expected | found if expected.get(name) != found.get(name)]
                expected, found = ({name: it.get(name) for name in names} for it in (expected, found))
            self.differences.append(f"{self.name} {what} {about}: expected {expected!r}, found {found!r}")

    async def create_credentials(self, boundaries: list[datetime]) -> None:
        """Create two credentials and rotate the key of one."""
        ids = []
        for label in ("first", "second"):
            body = {"label": label, "api_key": make_key()}
            ids.append((await self.request_json("POST", "/provider-credentials", json=body))["id"])
        rotation = {"api_key": make_key(), "activate": "immediately", "destroy_previous": "after_retention"}
        await self.request_json("POST", f"/provider-credentials/{ids[0]}/rotations", json=rotation)
        self._events = Events(random=self.random, boundaries=boundaries, credentials=ids)
        for credential_id in ids:
            found = await self.request_json("GET", f"/provider-credentials/{credential_id}/versions")
            self.state.versions[credential_id] = [
                (datetime.fromisoformat(it["activated_at"]), it["key_version"]) for it in found["data"]
            ]
            self.events.recent_changes += [at for at, _ in self.state.versions[credential_id]]

    def open_reservations(self, settled: set[str]) -> list[OpenReservation]:
        return [
            OpenReservation(
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
        """Return the amount that a token reservation must have reserved."""
        at = datetime.fromisoformat(reservation["created_at"])
        return self.state.estimate(reservation["requested"], at)
