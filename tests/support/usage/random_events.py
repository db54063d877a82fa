"""Random usage events: late, early, at time boundaries, repeated, conflicting, and some invalid ones."""

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

from tests.support.oracles.usage import LIST, LONG_PROMPT

ZONES = ("UTC", "America/New_York", "Asia/Kolkata", "Europe/Berlin")
UNPRICED = ("mystery-model-1", "mystery-model-1-20260101")
SPELLINGS = ("claude-haiku-4-5-20251001", "claude-opus-5-5-20261002", "claude-haiku-4-5-latest")
GATEWAY_MODELS = ("anthropic/claude-opus-5-5", "claude-opus-5-5[1m]")
MODELS = (*LIST, *SPELLINGS, *GATEWAY_MODELS, *UNPRICED)
FEATURES = ("assistant", "search", '=1+1"', None)
ENDPOINTS = ("prod", "staging", None)
_BACK = timedelta(days=35) - timedelta(minutes=20)  # leaves time for the run
_AHEAD = timedelta(minutes=4)
_TICK = timedelta(microseconds=1)
Event = dict[str, Any]


def boundaries(now: datetime) -> list[datetime]:
    """Return the boundaries of days and months that an event can reach, with extra weight on clock changes."""
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
    """Generates the events of one organization and remembers them."""

    random: Random
    boundaries: list[datetime]
    credentials: Sequence[str]
    recent_changes: list[datetime] = field(default_factory=list)
    reservations: list[str] = field(default_factory=list)
    created: list[Event] = field(default_factory=list)

    def batch(self, size: int) -> list[Event]:
        if self.random.random() < 0.2:
            return [self._future_event() for _ in range(self.random.randint(1, 3))]
        found: list[Event] = []
        for _ in range(size):
            found += self._next(found)
        return found

    def _future_event(self) -> Event:
        """Generate an event whose start is ahead of all scheduled changes, as from a client with a fast clock."""
        event = self._event()
        event["started_at"] = (datetime.now(UTC) + _AHEAD * self.random.random()).isoformat()
        self.created.append(event)
        return event

    def _next(self, batch: list[Event]) -> list[Event]:
        chance = self.random.random()
        earlier = [*self.created[-300:], *batch]
        if earlier and chance < 0.12:
            return [self._with_other_time_zone(self.random.choice(earlier))]
        if earlier and chance < 0.15:
            return [self._with_other_content(self.random.choice(earlier))]
        if chance < 0.17:
            return self._rejected_then_corrected()
        if earlier and chance < 0.23:
            event = self._correction(self.random.choice(earlier[-60:]))
            self.created.append(event)
            return [event]
        event = self._event()
        self.created.append(event)
        return [event]

    def _with_other_time_zone(self, event: Event) -> Event:
        """Return the event with the same time in another UTC offset."""
        zone = timezone(timedelta(minutes=self.random.choice((0, 330, -300))))
        moment = datetime.fromisoformat(event["started_at"]).astimezone(zone)
        return event | {"started_at": moment.isoformat()}

    def _with_other_content(self, event: Event) -> Event:
        other = deepcopy(event)
        if self.random.random() < 0.5:
            other["usage"]["output_tokens"] = other["usage"].get("output_tokens", 0) + 1
        else:
            moment = datetime.fromisoformat(event["started_at"])
            other["started_at"] = (moment - timedelta(hours=1)).isoformat()
        return other

    def _correction(self, event: Event) -> Event:
        """Return an event that replaces this one, which may be unknown yet, corrected already or a correction."""
        pick = self.random.choice
        other = deepcopy(event) | {"event_id": self._new_id(), "corrects": event["event_id"]}
        other |= pick(({}, {"usage": self._usage()}, {"usage": self._usage(), "model": pick(MODELS)}))
        if self.random.random() < 0.15:
            other["started_at"] = self._started_at().isoformat()
        if self.random.random() < 0.5:
            other.pop("reservation_id", None)
        if "reservation_id" in other and self.random.random() < 0.1:
            other["reservation_id"] = self._new_id()
        if self.reservations and "reservation_id" not in event and self.random.random() < 0.1:
            other["reservation_id"] = self.reservations.pop()
        if self.random.random() < 0.02:
            other["corrects"] = self._new_id()
        return other

    def _new_id(self) -> str:
        return str(UUID(int=self.random.getrandbits(128)))

    def _rejected_then_corrected(self) -> list[Event]:
        """Return an invalid event twice, and then the valid event with the same id."""
        event = self._event()
        event.pop("reservation_id", None)
        now = datetime.now(UTC)
        invalid = self.random.choice(
            (
                {"started_at": (now - timedelta(days=36)).isoformat()},
                {"started_at": (now + timedelta(minutes=30)).isoformat()},
                {"credential_id": str(UUID(int=self.random.getrandbits(128)))},
                {"mode": "byo"},
                {"usage": {"input_tokens": -1}},
                {"usage": {"prompt_tokens": 5}},
                {"outcome": "lost"},
            )
        )
        return [event | invalid, event | invalid, event]

    def _event(self) -> Event:
        pick = self.random.choice
        event: Event = {
            "event_id": self._new_id(),
            "started_at": self._started_at().isoformat().replace("+00:00", "Z"),
            "model": pick(MODELS),
            "outcome": pick(("succeeded", "succeeded", "failed", "aborted")),
            "endpoint_id": pick(ENDPOINTS),
            "feature": pick(FEATURES),
            "session_id": pick((None, f"session-{self.random.randrange(40)}")),
            "prompt_id": pick((None, f"prompt-{self.random.randrange(5)}")),
            "usage": self._usage(),
        }
        if self.random.random() < 0.05:
            event["stop_reason"] = pick(("refusal", "end_turn"))
            event["refusal_category"] = pick((None, "bio", "cyber", "frontier_llm"))
            event["usage"]["output_tokens"] = pick((0, 0, 3))
        if self.random.random() < 0.5:
            event["provider_request_id"] = f"req_{self.random.randrange(3000)}"
        if event["outcome"] == "aborted":
            event["usage_source"] = "estimated"
        if self.random.random() < 0.4:
            event["credential_id"] = pick(self.credentials)
            event["key_version"] = pick((None, None, 1))
        if self.reservations and self.random.random() < 0.15:
            # Once only: which of several events settles a reservation depends on their order.
            event["reservation_id"] = self.reservations.pop(self.random.randrange(len(self.reservations)))
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
            self.random.choice(self.recent_changes or self.boundaries)
            if chance < 0.75
            else self.random.choice(self.boundaries)
        )
        near = (-_TICK, timedelta(), _TICK, timedelta(hours=self.random.uniform(-3, 3)))
        return min(max(instant + self.random.choice(near), now - _BACK), now + _AHEAD)

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
        conditions = {"service_tier": tier, "speed": speed, "inference_geo": pick((None, "global", "us"))}
        usage |= {name: value for name, value in conditions.items() if value is not None}
        if some(6) == 0:
            usage["iterations"] = self._iterations(usage)
        if some(60) == 0:
            usage |= pick(({"service_tier": 5}, {"iterations": "none"}, {"new_field": {"a": None}}))
        return usage

    def _iterations(self, usage: dict[str, Any]) -> list[dict[str, Any]]:
        """Return the calls of the message, exactly or not, and further work by the same and other models."""
        pick, some = self.random.choice, self.random.randrange
        has_fallback, calls = some(3) == 0, pick((1, 2, 3))
        names = ("input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
        named = pick(({}, {"model": pick(MODELS)}))
        found = [
            {"type": "fallback_message" if has_fallback else "message"}
            | named
            | {name: usage.get(name, 0) // calls for name in names}
            for _ in range(calls)
        ]
        for name in names:  # mostly, the calls add up
            found[0][name] += usage.get(name, 0) % calls if some(10) else 0
        for _ in range(some(4)):
            kind = pick(("compaction", "advisor_message", "message"))
            if kind == "message" and not has_fallback:
                continue
            work = {"type": kind, "input_tokens": some(120_000), "output_tokens": pick((0, some(500)))}
            found.insert(some(len(found) + 1), work | pick(({}, {"model": pick(MODELS)})))
        return found


def canonical_json(event: Event) -> str:
    """Return a canonical form that is equal for all notations of an event."""
    moment = datetime.fromisoformat(event["started_at"]).astimezone(UTC).isoformat()
    return json.dumps(event | {"started_at": moment}, sort_keys=True)
