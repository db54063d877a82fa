"""What happens to an organization of the scenario: events come in, modes and prices switch, spend is held, a month closes."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from tests.e2e.usage_events import ENDPOINTS, MODELS, Event
from tests.e2e.usage_organization import Attempt, Json, Organization, Scheduled
from tests.usage_oracle import Overrides
from tests.usage_oracle_statements import Terms

_OVERLOADED = {429, 503}
_OWN = ("claude-opus-*", "claude-*", "mystery-model-1", "claude-haiku-5-5", "*")


class Life(Organization):
    """Each deed is one request or a few, and notes what was answered."""

    async def ingest(self, size: int) -> None:
        """One batch; some are sent to every process at once."""
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
            response = await self.request(
                "POST", "/usage-events", role="service", content=content, headers={"Content-Type": kind}
            )
            answered_at = datetime.now(UTC)
            if response.status_code == 200:
                break
            assert response.status_code in _OVERLOADED, response.text
            self._remember(batch, {}, "unknown", sent_at, answered_at)
        body = response.json()
        refused = {it["index"]: it for it in body["results"]}
        self.accepted += body["accepted"]
        self.in_flight -= len(batch)
        self._remember(batch, refused, "accepted", sent_at, answered_at)
        self.differ("accepted", expected=len(batch) - len(refused), found=body["accepted"])
        duplicates = sum(it["status"] == "duplicate" for it in refused.values())
        self.differ("duplicates", expected=duplicates, found=body["duplicates"])

    def _remember(
        self,
        batch: list[Event],
        refused: dict[int, Json],
        rest: str,
        sent_at: datetime,
        answered_at: datetime,
    ) -> None:
        for number, event in enumerate(batch):
            found = refused.get(number, {"status": rest, "code": None})
            self.attempts.append(
                Attempt(
                    event=event,
                    status=found["status"],
                    code=found["code"],
                    sent_at=sent_at,
                    answered_at=answered_at,
                )
            )

    async def switch(self) -> None:
        """Now or in a moment, to whichever mode; what was to come is replaced."""
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
        coming = state["scheduled"]
        if self.scheduled and self.scheduled[-1].replaced is None:
            last = self.scheduled.pop()
            is_kept = coming is not None and _names(coming) == (last.at, last.mode, last.credential_id)
            self.scheduled.append(
                last
                if is_kept
                else Scheduled(
                    at=last.at, mode=last.mode, credential_id=last.credential_id, replaced=(sent_at, until)
                )
            )
            if is_kept:
                coming = None
        if state["effective_from"] is not None:
            self.switched.append(state)
            self.events.hot.append(datetime.fromisoformat(state["effective_from"]))
        if coming is not None:
            at, mode, credential_id = _names(coming)
            self.scheduled.append(Scheduled(at=at, mode=mode, credential_id=credential_id))
            self.events.hot.append(at)

    def _soon(self) -> datetime | None:
        if self.random.random() < 0.5:
            return None
        return datetime.now(UTC) + timedelta(seconds=self.random.uniform(0.2, 1.5))

    async def set_prices(self) -> None:
        """Some models get prices of their own, some classes none, now or in a moment."""
        names = self.random.sample(
            ("claude-opus-*", "claude-*", "mystery-model-1", "claude-haiku-5-5", "*"), 3
        )
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
        if state is None:  # nothing in place of nothing
            return
        found = Overrides(
            number=state["number"],
            effective_from=datetime.fromisoformat(state["effective_from"]),
            set_at=datetime.fromisoformat(state["set_at"]),
            entries=entries,
        )
        self.known.overrides.setdefault(found.number, found)
        self.events.hot.append(found.effective_from)

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
        await self.answer("PUT", "/subscription", json=body)
        self.terms = terms

    async def count_endpoints(self, day: datetime) -> None:
        number = self.random.randrange(9)
        body = {"endpoints": number}
        response = await self.request("PUT", f"/endpoint-counts/{day:%Y-%m-%d}", json=body)
        if response.status_code == 409:
            self.differ("refused count", expected="statement_closed", found=response.json()["code"])
            return
        assert response.status_code == 200, response.text
        self.counts[f"{day:%Y-%m-%d}"] = number

    async def close(self, month: str) -> None:
        self.closed_as = await self.answer("POST", f"/billing-statements/{month}/close")
        self.closed[month] = datetime.fromisoformat(self.closed_as["closed_at"])
        self.terms_of_closed = self.terms
        self.events.hot.append(self.closed[month])

    async def limit(self, **terms: Any) -> None:
        body = {"name": "Budget", "period": "month", "thresholds": [1, 20, 50, 80, 100, 300]} | terms
        await self.answer("POST", "/spend-limits", json=body)

    async def reserve(self) -> None:
        """Tokens of a model, or an amount; a few are given back, some expire, the rest is there to be settled."""
        named = {"endpoint_id": self.random.choice(ENDPOINTS), "ttl_seconds": self.random.choice((1, 600))}
        if self.random.random() < 0.5:
            amount = f"0.{self.random.randrange(10**6):06}"
            wish: Json = {"amount": {"amount": amount, "currency": "USD"}}
        else:
            wish = {"model": self.random.choice(MODELS), "input_tokens": self.random.randrange(150_000)}
            wish["max_output_tokens"] = self.random.randrange(5000)
        response = await self.request("POST", "/spend-reservations", role="service", json=named | wish)
        if response.status_code == 402:
            return
        assert response.status_code == 201, response.text
        made = response.json()
        self.reservations[made["id"]] = made | {"wish": wish}
        if self.random.random() < 0.25:
            given_back = await self.request("DELETE", f"/spend-reservations/{made['id']}", role="service")
            if given_back.status_code in {200, 204}:
                self.released.add(made["id"])
        elif self.random.random() < 0.8:
            self.events.reservations.append(made["id"])

    async def peek(self) -> None:
        """Whatever was accepted before the question is in the answer, and nothing that was never sent."""
        least = self.accepted
        now = datetime.now(UTC)
        params = {
            "starting_at": (now - timedelta(days=37)).isoformat(),
            "ending_at": (now + timedelta(hours=1)).isoformat(),
            "bucket_width": "all",
        }
        found = await self.answer("GET", "/usage-report", params=params)
        requests = sum(it["requests"] for bucket in found["data"] for it in bucket["results"])
        most = self.accepted + self.in_flight
        self.differ("report while events come in", expected=True, found=least <= requests <= most)


def _names(point: Json) -> tuple[datetime, str, str | None]:
    return datetime.fromisoformat(point["effective_at"]), point["mode"], point["credential_id"]
