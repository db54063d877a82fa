"""Usage events in the API's format, and helpers to ingest and list them."""

import json
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx

from app.core.clock import new_id
from tests.support.tenant import Tenant

NDJSON = {"Content-Type": "application/x-ndjson"}
JSON = {"Content-Type": "application/json"}


def instant(at: datetime | None = None, **ago: float) -> str:
    """Format a time as clients do. `ago` is subtracted, as arguments of `timedelta`."""
    moment = (at or datetime.now(UTC)) - timedelta(**ago)
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def event(**fields: Any) -> dict[str, Any]:
    """Return a valid event with a new id. A field with the value None is omitted."""
    whole = {
        "event_id": str(new_id()),
        "started_at": instant(seconds=5),
        "model": "claude-haiku-5-5",
        "outcome": "succeeded",
        "usage_source": "reported",
        "usage": {"input_tokens": 12, "output_tokens": 6},
    } | fields
    return {name: value for name, value in whole.items() if value is not None}


def lines(events: Iterable[Any]) -> bytes:
    return b"".join(json.dumps(it).encode() + b"\n" for it in events)


@dataclass(frozen=True, kw_only=True)
class Ledger:
    """The ledger of one organization. An internal service ingests, the organization's admin reads."""

    tenant: Tenant
    service: Tenant

    @property
    def path(self) -> str:
        return f"{self.tenant.path}/usage-events"

    async def post(self, events: Iterable[Any]) -> httpx.Response:
        return await self.service.post(self.path, json={"events": list(events)})

    async def stream(self, body: bytes | AsyncIterator[bytes]) -> httpx.Response:
        return await self.service.post(self.path, content=body, headers=NDJSON)

    async def accepted(self, *events: Any) -> None:
        response = await self.post(events)
        assert response.status_code == 200, response.text
        assert response.json() == {
            "accepted": len(events),
            "duplicates": 0,
            "results": [],
            "results_truncated": False,
        }

    async def rejected(self, wrong: Any) -> str:
        """Send an invalid event with a valid one; return the code of the rejection."""
        response = await self.post([event(), wrong])
        assert response.status_code == 200, response.text
        body = response.json()
        assert body["accepted"] == 1, body
        (result,) = body["results"]
        assert (result["index"], result["status"]) == (1, "rejected")
        code: str = result["code"]
        return code

    async def rows(self, **filters: Any) -> list[dict[str, Any]]:
        """Return all rows, newest first."""
        found: list[dict[str, Any]] = []
        page: str | None = None
        while True:
            params = filters | {"limit": 100} | ({} if page is None else {"page": page})
            response = await self.tenant.get(self.path, params=params)
            assert response.status_code == 200, response.text
            body = response.json()
            found += body["data"]
            page = body["next_page"]
            if not body["has_more"]:
                return found

    async def row(self, event_id: str) -> dict[str, Any]:
        (found,) = [row for row in await self.rows() if row["event_id"] == event_id]
        return found
