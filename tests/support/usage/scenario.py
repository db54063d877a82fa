"""The actions of the usage scenario: ingest events, change usage modes and prices, reserve spend, close a month."""

import asyncio
import json
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import httpx

from tests.support.oracles.usage import Overrides
from tests.support.oracles.usage_statements import Terms
from tests.support.usage.random_events import ENDPOINTS, MODELS, Event
from tests.support.usage.scenario_organization import Json, OrganizationClient, ScheduledChange, SentEvent

_OVERLOADED = {429, 503}
_OVERRIDE_MODELS = (
    *("claude-opus-*", "claude-*", "mystery-model-1", "mystery-model-1-20260101", "claude-haiku-5-5", "*"),
    *("claude-haiku-4-5-20251001", "*/claude-opus-5-5", "claude-opus-5-5[1m]", "*haiku*"),
)
_CONDITIONS: dict[str, tuple[str | int | None, ...]] = {
    "service_tier": (None, "batch", "priority"),
    "speed": (None, "fast"),
    "inference_geo": (None, "us"),
    "max_web_searches": (None, 0, 7),
}


class Scenario(OrganizationClient):
    """Sends random requests for one organization and records the responses for the oracle."""

    async def ingest(self, size: int) -> None:
        """Send one batch. Some batches are sent to all processes concurrently."""
        batch = self.events.batch(size)
        times = len(self.services) if self.random.random() < 0.1 else 1
        is_stream = self.random.random() < 0.4
        await asyncio.gather(*(self._send(batch, is_stream=is_stream) for _ in range(times)))

    async def _send(self, batch: list[Event], *, is_stream: bool) -> None:
        if is_stream:
            content, kind = "".join(f"{json.dumps(it)}\n" for it in batch), "application/x-ndjson"
        else:
            content, kind = json.dumps({"events": batch}), "application/json"
        self.in_flight += len(batch)
        while True:
            sent_at = datetime.now(UTC)
            response = await self._post_events(content, kind)
            responded_at = datetime.now(UTC)
            if response is not None and response.status_code == 200:
                break
            assert response is None or response.status_code in _OVERLOADED, response.text
            self._record_results(batch, {}, "unknown", sent_at, responded_at)
        body = response.json()
        not_accepted = {it["index"]: it for it in body["results"]}
        # A correction adds no request: it replaces one.
        requests = [at for at, event in enumerate(batch) if "corrects" not in event]
        self.accepted += sum(at not in not_accepted for at in requests)
        self.perhaps_accepted += sum(at in not_accepted for at in requests)
        self.in_flight -= len(batch)
        self._record_results(batch, not_accepted, "accepted", sent_at, responded_at)
        self.expect_equal("accepted", expected=len(batch) - len(not_accepted), found=body["accepted"])
        duplicates = sum(it["status"] == "duplicate" for it in not_accepted.values())
        self.expect_equal("duplicates", expected=duplicates, found=body["duplicates"])

    async def _post_events(self, content: str, kind: str) -> httpx.Response | None:
        """Send events to any process. Returns None if the process was killed meanwhile."""
        with suppress(httpx.TransportError):
            return await self.request(
                "POST",
                "/usage-events",
                role="service",
                services=[*self.services, *self.killed_services],
                content=content,
                headers={"Content-Type": kind},
            )
        await asyncio.sleep(0.1)
        return None

    def _record_results(
        self,
        batch: list[Event],
        not_accepted: dict[int, Json],
        rest: str,
        sent_at: datetime,
        responded_at: datetime,
    ) -> None:
        for number, event in enumerate(batch):
            found = not_accepted.get(number, {"status": rest, "code": None})
            self.sent_events.append(
                SentEvent(
                    event=event,
                    status=found["status"],
                    code=found["code"],
                    sent_at=sent_at,
                    responded_at=responded_at,
                )
            )

    async def change_usage_mode(self) -> None:
        """Change to a random mode, now or soon. A scheduled change is replaced."""
        mode = self.random.choice(("managed", "byo"))
        credential_id = self.random.choice((None, *self.events.credentials)) if mode == "byo" else None
        later = self._soon()
        sent_at = datetime.now(UTC)
        response = await self.request(
            "PUT",
            "/usage-mode",
            json={
                "mode": mode,
                "credential_id": credential_id,
                "effective_at": None if later is None else later.isoformat(),
            },
        )
        if response.status_code == 422:
            return
        assert response.status_code == 200, response.text
        state, until = response.json(), datetime.now(UTC)
        scheduled = state["scheduled"]
        if self.scheduled and self.scheduled[-1].replaced is None:
            last = self.scheduled.pop()
            is_kept = scheduled is not None and _scheduled_change(scheduled) == (
                last.at,
                last.mode,
                last.credential_id,
            )
            self.scheduled.append(
                last
                if is_kept
                else ScheduledChange(
                    at=last.at, mode=last.mode, credential_id=last.credential_id, replaced=(sent_at, until)
                )
            )
            if is_kept:
                scheduled = None
        if state["effective_from"] is not None:
            self.applied_changes.append(state)
            self.events.recent_changes.append(datetime.fromisoformat(state["effective_from"]))
        if scheduled is not None:
            at, mode, credential_id = _scheduled_change(scheduled)
            self.scheduled.append(ScheduledChange(at=at, mode=mode, credential_id=credential_id))
            self.events.recent_changes.append(at)

    def _soon(self) -> datetime | None:
        if self.random.random() < 0.5:
            return None
        return datetime.now(UTC) + timedelta(seconds=self.random.uniform(0.2, 1.5))

    async def set_prices(self) -> None:
        """Set overrides for some models, now or soon. Some price classes get no price."""
        names = self.random.sample(_OVERRIDE_MODELS, 3)
        entries = {name: self._prices() for name in names[: self.random.randrange(4)]}
        later = self._soon()
        body = {
            "overrides": [{"model": name} | entry for name, entry in entries.items()],
            "effective_at": None if later is None else later.isoformat(),
        }
        response = await self.request("PUT", "/price-overrides", json=body)
        if response.status_code == 422:
            return
        assert response.status_code == 200, response.text
        state = response.json()["in_force" if later is None else "scheduled"]
        if state is None:  # setting an empty list without an earlier one changes nothing
            return
        found = Overrides(
            number=state["number"],
            effective_from=datetime.fromisoformat(state["effective_from"]),
            set_at=datetime.fromisoformat(state["set_at"]),
            entries=entries,
        )
        self.state.overrides.setdefault(found.number, found)
        self.events.recent_changes.append(found.effective_from)

    def _prices(self) -> Json:
        def price(*, optional: bool = True) -> str | None:
            return (
                None
                if optional and self.random.random() < 0.2
                else f"{self.random.randrange(30)}.{self.random.randrange(10**6):06}"
            )

        classes = ("cache_write_5m", "cache_write_1h", "cache_read")
        return {
            "usd_per_million_tokens": {
                "uncached_input": price(optional=False),
                "output": price(optional=False),
                **{name: price() for name in classes},
            },
            "usd_per_thousand_web_searches": price(),
        }

    async def subscribe(self) -> None:
        fee, overage = (f"{self.random.randrange(200)}.{self.random.randrange(10**4):04}" for _ in range(2))
        terms = Terms(fee=Decimal(fee), included=self.random.randrange(4), overage=Decimal(overage))
        body = {
            "plan": "production",
            "monthly_fee": {"amount": fee, "currency": "USD"},
            "included_endpoints": terms.included,
            "endpoint_overage_fee": {"amount": overage, "currency": "USD"},
        }
        await self.request_json("PUT", "/subscription", json=body)
        self.terms = terms

    async def set_endpoint_count(self, day: datetime) -> None:
        number = self.random.randrange(9)
        body = {"endpoints": number}
        response = await self.request("PUT", f"/endpoint-counts/{day:%Y-%m-%d}", json=body)
        if response.status_code == 409:
            self.expect_equal(
                "rejected endpoint count", expected="statement_closed", found=response.json()["code"]
            )
            return
        assert response.status_code == 200, response.text
        self.counts[f"{day:%Y-%m-%d}"] = number

    async def close_month(self, month: str) -> None:
        self.closed_as = await self.request_json("POST", f"/billing-statements/{month}/close")
        self.closed[month] = datetime.fromisoformat(self.closed_as["closed_at"])
        self.terms_of_closed = self.terms
        self.events.recent_changes.append(self.closed[month])

    async def create_limit(self, **terms: Any) -> None:
        body = {"name": "Budget", "period": "month", "thresholds": [1, 20, 50, 80, 100, 300]} | terms
        await self.request_json("POST", "/spend-limits", json=body)

    async def reserve(self) -> None:
        """Reserve tokens of a model or an amount. Some reservations are released, some expire, events settle the rest."""
        named = {"endpoint_id": self.random.choice(ENDPOINTS), "ttl_seconds": self.random.choice((1, 600))}
        if self.random.random() < 0.5:
            amount = f"0.{self.random.randrange(10**6):06}"
            requested: Json = {"amount": {"amount": amount, "currency": "USD"}}
        else:
            requested = {"model": self.random.choice(MODELS), "input_tokens": self.random.randrange(150_000)}
            requested["max_output_tokens"] = self.random.randrange(5000)
            requested |= {
                name: value
                for name, values in _CONDITIONS.items()
                if (value := self.random.choice(values)) is not None
            }
        response = await self.request("POST", "/spend-reservations", role="service", json=named | requested)
        if response.status_code == 402:
            return
        assert response.status_code == 201, response.text
        made = response.json()
        self.reservations[made["id"]] = made | {"requested": requested}
        if self.random.random() < 0.25:
            release = await self.request("DELETE", f"/spend-reservations/{made['id']}", role="service")
            if release.status_code in {200, 204}:
                self.released.add(made["id"])
        elif self.random.random() < 0.8:
            self.events.reservations.append(made["id"])

    async def check_running_report(self) -> None:
        """Check that a report contains all events accepted before the request, and not more than were sent."""
        minimum = self.accepted
        now = datetime.now(UTC)
        params = {
            "starting_at": (now - timedelta(days=37)).isoformat(),
            "ending_at": (now + timedelta(hours=1)).isoformat(),
            "bucket_width": "all",
        }
        found = await self.request_json("GET", "/usage-report", params=params)
        requests = sum(it["requests"] for bucket in found["data"] for it in bucket["results"])
        most = self.accepted + self.perhaps_accepted + self.in_flight
        self.expect_equal("report during ingestion", expected=True, found=minimum <= requests <= most)


def _scheduled_change(change: Json) -> tuple[datetime, str, str | None]:
    return datetime.fromisoformat(change["effective_at"]), change["mode"], change["credential_id"]
