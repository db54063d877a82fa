"""Checks corpus files about the scope of spend limits, over HTTP, against a service that it starts with embedded defaults.

    python -m tests.limit_scopes_corpus FILE.jsonl [...]

A corpus file has one JSON object per line: `id`, `scope_model` and `limit` (the only limit of a new organization),
`steps` and `debatable`. Each step does one of these, and has what must hold after it:

    match    spend under `model` counts for the limit, and the report filter with `scope_model` finds it, or neither
    reserve  the response to a reservation: `granted`, `spend_limit_exceeded` or `price_unknown`
    event    the limit's `spent` and `reserved`, or `committed_at_least`, after a usage event
    filter   the number of requests that the report filter with `model` finds

The script prints one JSON line for each case that disagrees, with the index of the first step that does, then a line with
the counts. The exit status is 1 if a case disagrees that is not debatable.
"""

import asyncio
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx

from tests.support.processes.service import Service, running

Json = dict[str, Any]

_CONCURRENT_CASES = 4
_ONE_TOKEN = {"input_tokens": 0, "output_tokens": 1}


@dataclass(kw_only=True)
class CaseOrganization:
    """A new organization with the limit of a case, and the reservations that the case made."""

    service: Service
    case: Mapping[str, Any]
    name: str = field(default_factory=lambda: f"org_{uuid4().hex[:16]}")
    reservations: dict[str, str] = field(default_factory=dict)
    limit_id: str = ""

    async def create_limit(self) -> None:
        limit = self.case["limit"]
        body = {
            "name": "Corpus",
            "amount": {"amount": limit["amount"], "currency": "USD"},
            "period": limit["period"],
            "enforcement": limit["enforcement"],
            "scope": {"model": self.case["scope_model"]},
        }
        response = await self.request("POST", "/spend-limits", json=body)
        response.raise_for_status()
        self.limit_id = response.json()["id"]

    async def request(
        self, method: str, path: str, *, role: str = "billing-admin", **options: Any
    ) -> httpx.Response:
        headers = {"Authorization": f"Bearer {await self.service.token(role)}"}
        return await self.service.http.request(
            method, f"/v1/organizations/{self.name}{path}", headers=headers, **options
        )

    async def limit(self) -> Json:
        response = await self.request("GET", f"/spend-limits/{self.limit_id}")
        response.raise_for_status()
        found: Json = response.json()
        return found

    async def reserve(self, **fields: Any) -> httpx.Response:
        return await self.request("POST", "/spend-reservations", role="service", json=fields)

    async def ingest(self, model: str, usage: Mapping[str, Any], reservation_id: str | None = None) -> bool:
        """Send one event; returns whether it was accepted."""
        event = {
            "event_id": uuid4().hex,
            "started_at": datetime.now(UTC).isoformat(),
            "model": model,
            "outcome": "succeeded",
            "usage": dict(usage),
        }
        if reservation_id is not None:
            event["reservation_id"] = reservation_id
        response = await self.request("POST", "/usage-events", role="service", json={"events": [event]})
        response.raise_for_status()
        return bool(response.json()["accepted"] == 1)

    async def requests_of(self, model: str | None) -> int:
        params = {
            "starting_at": (datetime.now(UTC) - timedelta(days=1)).isoformat(),
            "bucket_width": "all",
        }
        if model is not None:
            params["model[]"] = model
        response = await self.request("GET", "/usage-report", params=params)
        response.raise_for_status()
        return sum(result["requests"] for bucket in response.json()["data"] for result in bucket["results"])


async def _match(service: Service, case: Mapping[str, Any], step: Mapping[str, Any]) -> tuple[Any, Any]:
    """Try a reservation and an event, on a separate organization, so that no other step sees their spend."""
    organization = CaseOrganization(service=service, case=case)
    await organization.create_limit()
    amount = {"amount": "0.000001", "currency": "USD"}
    made = await organization.reserve(model=step["model"], amount=amount)
    reserved = (await organization.limit())["reserved"]
    if made.status_code == httpx.codes.CREATED:
        path = f"/spend-reservations/{made.json()['id']}"
        (await organization.request("DELETE", path, role="service")).raise_for_status()
    await organization.ingest(step["model"], _ONE_TOKEN)
    limit = await organization.limit()
    got = {
        "reservation": _usd(reserved) > 0,
        # An event without a known price is counted there, because its cost is not known.
        "limit": _usd(limit["spent"]) > 0 or limit["unpriced_requests"] > 0,
        "filter": await organization.requests_of(case["scope_model"]) > 0,
    }
    return dict.fromkeys(got, step["expect"]), got


async def _reserve(it: CaseOrganization, step: Mapping[str, Any]) -> tuple[Any, Any]:
    response = await it.reserve(
        model=step["model"],
        input_tokens=step["input_tokens"],
        max_output_tokens=step["max_output_tokens"],
    )
    body = response.json()
    if response.status_code == httpx.codes.CREATED:
        it.reservations[step["as"]] = body["id"]
        got = "granted"
    else:
        got = "price_unknown" if body.get("reason") == "price_unknown" else body["code"]
    return (got if got in step["expect"] else step["expect"]), got


async def _event(it: CaseOrganization, step: Mapping[str, Any]) -> tuple[Any, Any]:
    expect = step["expect"]
    settles = None if step["settles"] is None else it.reservations.get(step["settles"])
    if not await it.ingest(step["model"], step["usage"], settles):
        return expect, "the event was not accepted"
    limit = await it.limit()
    spent, reserved = _usd(limit["spent"]), _usd(limit["reserved"])
    got = {"spent": limit["spent"]["amount"], "reserved": limit["reserved"]["amount"]}
    if "committed_at_least" in expect:
        holds = spent + reserved >= Decimal(expect["committed_at_least"])
    else:
        holds = (spent, reserved) == (Decimal(expect["spent"]), Decimal(expect["reserved"]))
    return (got if holds else expect), got


async def _filter(it: CaseOrganization, step: Mapping[str, Any]) -> tuple[Any, Any]:
    return step["expect"], {"requests": await it.requests_of(step["model"])}


def _usd(money: Mapping[str, str]) -> Decimal:
    return Decimal(money["amount"])


_STEPS = {"reserve": _reserve, "event": _event, "filter": _filter}


async def evaluate(service: Service, case: Mapping[str, Any]) -> Json | None:
    """Run the steps of a case; return the first disagreement, or None."""
    organization = CaseOrganization(service=service, case=case)
    try:
        await organization.create_limit()
        for number, step in enumerate(case["steps"]):
            if step["do"] == "match":
                expected, got = await _match(service, case, step)
            else:
                expected, got = await _STEPS[step["do"]](organization, step)
            if expected != got:
                return {"step": number, "expected": expected, "got": got}
    except httpx.HTTPStatusError as error:
        return {
            "step": None,
            "expected": "a successful response",
            "got": {"status": error.response.status_code, "path": error.request.url.path},
        }
    return None


def read(paths: Iterable[Path]) -> Iterator[tuple[str, Json]]:
    for path in paths:
        with path.open(encoding="utf-8") as lines:
            yield from ((path.name, json.loads(line)) for line in lines if line.strip())


async def run(paths: Iterable[Path]) -> int:
    """Print the disagreements and their counts. Return 1 if one of them is not debatable, else 0."""
    cases = list(read(paths))
    slots = asyncio.Semaphore(_CONCURRENT_CASES)
    async with running() as service:
        for role in ("billing-admin", "service"):
            await service.token(role)

        async def evaluated(case: Json) -> Json | None:
            async with slots:
                return await evaluate(service, case)

        outcomes = await asyncio.gather(*(evaluated(case) for _, case in cases))
    disagreements = [
        {"corpus": corpus, "id": case["id"], **found, "debatable": bool(case.get("debatable"))}
        for (corpus, case), found in zip(cases, outcomes, strict=True)
        if found is not None
    ]
    for line in disagreements:
        print(json.dumps(line))
    debatable = sum(line["debatable"] for line in disagreements)
    disagree = len(disagreements) - debatable
    print(json.dumps({"cases": len(cases), "disagree": disagree, "debatable_disagree": debatable}))
    return 1 if disagree else 0


if __name__ == "__main__":
    if len(sys.argv) == 1:
        sys.exit(__doc__)
    sys.exit(asyncio.run(run(map(Path, sys.argv[1:]))))
