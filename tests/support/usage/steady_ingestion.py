"""Clients that ingest usage events without pause, and repeat what failed until it is accepted."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any
from uuid import uuid4

import httpx

from tests.support import polling

TOKENS = 1000
_EVENTS = 5
_MAX_SECONDS = 60


@dataclass(kw_only=True)
class Ingestion:
    """What the clients saw.

    Attributes:
        accepted: ids of events in batches that were confirmed with 200.
        broken: requests whose connection broke before a response.
        refused: other responses than 200, by status and code.
    """

    http: httpx.AsyncClient
    path: str
    headers: dict[str, str]
    accepted: set[str] = field(default_factory=set)
    broken: int = 0
    refused: list[tuple[int, str]] = field(default_factory=list)

    async def run(self, *, clients: int, until: Callable[[], bool]) -> None:
        """Send batches from several clients until the condition holds and each one's last batch is accepted."""
        async with asyncio.TaskGroup() as group:
            for _ in range(clients):
                group.create_task(self._client(until))

    async def _client(self, until: Callable[[], bool]) -> None:
        while not until():
            batch = [_event() for _ in range(_EVENTS)]
            await polling.until(partial(self._send, batch), bool, timeout_seconds=_MAX_SECONDS)

    async def _send(self, batch: list[dict[str, Any]]) -> bool:
        try:
            response = await self.http.post(self.path, json={"events": batch}, headers=self.headers)
        except httpx.TransportError:
            self.broken += 1
            return False
        if response.status_code != httpx.codes.OK:
            self.refused.append((response.status_code, response.json()["code"]))
            return False
        found = response.json()
        assert found["accepted"] + found["duplicates"] == _EVENTS, found
        self.accepted.update(event["event_id"] for event in batch)
        return True


def _event() -> dict[str, Any]:
    return {
        "event_id": uuid4().hex,
        "started_at": datetime.now(UTC).isoformat(),
        "model": "claude-sonnet-4-5",
        "outcome": "succeeded",
        "usage": {"input_tokens": TOKENS, "output_tokens": 0},
        "usage_source": "reported",
    }
