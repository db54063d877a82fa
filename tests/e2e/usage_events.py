"""Random usage events: late, ahead, at the edges of days and modes, repeated, contradicted, and some that are none."""

import itertools
import json
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, timezone
from random import Random
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from tests.usage_oracle import LIST, LONG_PROMPT

ZONES = ("UTC", "America/New_York", "Asia/Kolkata", "Europe/Berlin")
UNPRICED = ("mystery-model-1", "mystery-model-1-20260101")
MODELS = (*LIST, "claude-haiku-4-5-20251001", *UNPRICED)
FEATURES = ("assistant", "search", '=1+1"', None)
ENDPOINTS = ("prod", "staging", None)
_BACK = timedelta(days=35) - timedelta(minutes=20)  # a run takes its time
_AHEAD = timedelta(minutes=4)
_TICK = timedelta(microseconds=1)
Event = dict[str, Any]


def edges(now: datetime) -> list[datetime]:
    """Where hours, days and months change in reach of an event, clocks on the wall foremost."""
    hour = now.replace(minute=0, second=0, microsecond=0)
    hours = [hour - timedelta(hours=number) for number in range(1, 24 * 35)]
    found = []
    for zone in map(ZoneInfo, ZONES):
        local = [it.astimezone(zone) for it in hours]
        changes = [a for a, b in itertools.pairwise(local) if a.utcoffset() != b.utcoffset()]
        found += [it.astimezone(UTC) for it in changes] * 20
        midnights = [it.replace(hour=0, minute=0) for it in local if it.hour == 0]
        found += [it.astimezone(UTC) for it in midnights if it.day in (1, now.day)] * 3
        found += [it.astimezone(UTC) for it in midnights]
    return [it for it in found if now - _BACK < it]


@dataclass(kw_only=True)
class Events:
    """Makes the events of one organization, and knows which it made before."""

    random: Random
    edges: list[datetime]
    credentials: Sequence[str]
    hot: list[datetime] = field(default_factory=list)
    reservations: list[str] = field(default_factory=list)
    made: list[Event] = field(default_factory=list)

    def batch(self, size: int) -> list[Event]:
        if self.random.random() < 0.2:
            return [self._ahead() for _ in range(self.random.randint(1, 3))]
        found: list[Event] = []
        for _ in range(size):
            found += self._next(found)
        return found

    def _ahead(self) -> Event:
        """As by a client whose clock is ahead of everything that is still to come."""
        event = self._event()
        event["started_at"] = (datetime.now(UTC) + _AHEAD * self.random.random()).isoformat()
        self.made.append(event)
        return event

    def _next(self, batch: list[Event]) -> list[Event]:
        chance = self.random.random()
        known = [*self.made[-300:], *batch]
        if known and chance < 0.12:
            return [self._respelled(self.random.choice(known))]
        if known and chance < 0.15:
            return [self._contradicted(self.random.choice(known))]
        if chance < 0.17:
            return self._refused_and_mended()
        event = self._event()
        self.made.append(event)
        return [event]

    def _respelled(self, event: Event) -> Event:
        """The same instant, as clocks elsewhere show it."""
        zone = timezone(timedelta(minutes=self.random.choice((0, 330, -300))))
        moment = datetime.fromisoformat(event["started_at"]).astimezone(zone)
        return event | {"started_at": moment.isoformat()}

    def _contradicted(self, event: Event) -> Event:
        other = deepcopy(event)
        if self.random.random() < 0.5:
            other["usage"]["output_tokens"] += 1
        else:
            moment = datetime.fromisoformat(event["started_at"])
            other["started_at"] = (moment - timedelta(hours=1)).isoformat()
        return other

    def _refused_and_mended(self) -> list[Event]:
        """One that cannot be taken in, twice, and then as it should have been, under the same id."""
        event = self._event()
        event.pop("reservation_id", None)
        now = datetime.now(UTC)
        wrong = self.random.choice(
            (
                {"started_at": (now - timedelta(days=36)).isoformat()},
                {"started_at": (now + timedelta(minutes=30)).isoformat()},
                {"credential_id": str(UUID(int=self.random.getrandbits(128)))},
                {"mode": "byo"},
                {"usage": {"input_tokens": -1}},
                {"outcome": "lost"},
            )
        )
        return [event | wrong, event | wrong, event]

    def _event(self) -> Event:
        pick = self.random.choice
        event: Event = {
            "event_id": str(UUID(int=self.random.getrandbits(128))),
            "started_at": self._started_at().isoformat().replace("+00:00", "Z"),
            "model": pick(MODELS),
            "outcome": pick(("succeeded", "succeeded", "failed", "aborted")),
            "endpoint_id": pick(ENDPOINTS),
            "feature": pick(FEATURES),
            "session_id": pick((None, f"session-{self.random.randrange(40)}")),
            "prompt_id": pick((None, f"prompt-{self.random.randrange(5)}")),
            "usage": self._usage(),
        }
        if event["outcome"] == "aborted":
            event["usage_source"] = "estimated"
        if self.random.random() < 0.4:
            event["credential_id"] = pick(self.credentials)
            event["key_version"] = pick((None, None, 1))
        if self.reservations and self.random.random() < 0.15:
            event["reservation_id"] = self.reservations[self.random.randrange(len(self.reservations))]
        return {name: value for name, value in event.items() if value is not None}

    def _started_at(self) -> datetime:
        now, chance = datetime.now(UTC), self.random.random()
        if chance < 0.35:
            return now - timedelta(seconds=self.random.uniform(0, 4))
        if chance < 0.40:
            return now + _AHEAD * self.random.random()
        if chance < 0.60:
            return now - _BACK * self.random.random()
        instant = (
            self.random.choice(self.hot or self.edges) if chance < 0.75 else self.random.choice(self.edges)
        )
        near = (-_TICK, timedelta(), _TICK, timedelta(hours=self.random.uniform(-3, 3)))
        return min(instant + self.random.choice(near), now + _AHEAD)

    def _usage(self) -> dict[str, Any]:
        pick, some = self.random.choice, self.random.randrange
        usage: dict[str, Any] = {"input_tokens": some(5000), "output_tokens": some(3000)}
        if some(3) == 0:
            usage["cache_read_input_tokens"] = some(20_000)
        if some(3) == 0:
            usage["cache_creation_input_tokens"] = written = some(4000)
            short = some(written + 1)
            long = some(written - short + 1)
            if pick((True, True, False)):
                split = {"ephemeral_5m_input_tokens": short, "ephemeral_1h_input_tokens": long}
                usage["cache_creation"] = split
        if some(5) == 0:
            rest = sum(usage.get(f"cache_{name}_input_tokens", 0) for name in ("read", "creation"))
            usage["input_tokens"] = LONG_PROMPT + some(3) - 1 - min(rest, LONG_PROMPT)
        if some(8) == 0:
            usage["server_tool_use"] = {"web_search_requests": some(4)}
        tier = pick((None, None, "standard", "priority", "batch"))
        speed = pick((None, None, "standard", "fast")) if tier != "batch" else None
        told = {"service_tier": tier, "speed": speed, "inference_geo": pick((None, "global", "us"))}
        usage |= {name: value for name, value in told.items() if value is not None}
        if some(15) == 0:
            compaction = {"type": "compaction", "input_tokens": some(120_000), "output_tokens": some(500)}
            message = {"type": "message", "input_tokens": usage["input_tokens"]}
            usage["iterations"] = [compaction | pick(({}, {"model": pick(MODELS)})), message]
        return usage


def same(event: Event) -> str:
    """What two spellings of one event have in common."""
    moment = datetime.fromisoformat(event["started_at"]).astimezone(UTC).isoformat()
    return json.dumps(event | {"started_at": moment}, sort_keys=True)
