"""Decoding of one event: what is rejected, what is left out and flagged, and what is kept."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from app.usage_events.anthropic_usage import UNNAMED_MODEL, UsageObject, priced_parts
from app.usage_events.event_decoder import MAX_KEPT_USAGE_BYTES, DecodedEvent, EventRejected, decode_event
from app.usage_events.records import UsageFlag
from tests.support.provider.fake_anthropic import make_key

IGNORED = UsageFlag.USAGE_FIELD_IGNORED


def decode(usage: Any, **fields: Any) -> DecodedEvent:
    event = {
        "event_id": "e-1",
        "started_at": "2026-11-20T10:00:00Z",
        "model": "claude-opus-5",
        "outcome": "succeeded",
        "usage": usage,
    }
    return decode_event(json.dumps(event | fields).encode())


def rejection(usage: Any, **fields: Any) -> EventRejected:
    with pytest.raises(EventRejected) as caught:
        decode(usage, **fields)
    return caught.value


class TestCounters:
    @pytest.mark.parametrize(
        ("usage", "field"),
        [
            ({"input_tokens": -1}, "usage.input_tokens"),
            ({"output_tokens": 1.5}, "usage.output_tokens"),
            ({"input_tokens": 1, "cache_read_input_tokens": "7"}, "usage.cache_read_input_tokens"),
            ({"cache_creation_input_tokens": True}, "usage.cache_creation_input_tokens"),
            ({"input_tokens": 2**70}, "usage.input_tokens"),
            (
                {"input_tokens": 1, "cache_creation": {"ephemeral_1h_input_tokens": -1}},
                "usage.cache_creation.ephemeral_1h_input_tokens",
            ),
            (
                {"input_tokens": 1, "server_tool_use": {"web_search_requests": 1e9}},
                "usage.server_tool_use.web_search_requests",
            ),
            ({"input_tokens": 1, "iterations": [{"output_tokens": "x"}]}, "usage.iterations.output_tokens"),
            ([], "usage"),
            (5, "usage"),
            (None, "usage"),
        ],
    )
    def test_with_impossible_values_reject_the_event_and_are_named(self, usage: Any, field: str) -> None:
        rejected = rejection(usage)

        assert (rejected.code, rejected.fields, rejected.event_id) == ("invalid_usage", (field,), "e-1")

    @pytest.mark.parametrize("iteration", [{}, {"input_tokens": 1.0}, {"type": 5}])
    def test_of_more_iterations_than_an_event_may_have_are_rejected(self, iteration: Any) -> None:
        usage = {"input_tokens": 1, "iterations": [iteration] * 256}
        assert decode(usage).event.usage.input_tokens == 1

        rejected = rejection(usage | {"iterations": [iteration] * 257})

        assert (rejected.code, rejected.fields, rejected.event_id) == (
            "invalid_usage",
            ("usage.iterations",),
            "e-1",
        )

    def test_written_as_whole_floats_are_integers(self) -> None:
        found = decode({"input_tokens": 1200.0, "iterations": [{"type": "compaction", "output_tokens": 3.0}]})

        assert found.event.usage.input_tokens == 1200
        assert found.flags == 0
        assert (
            found.digest
            == decode(
                {"input_tokens": 1200, "iterations": [{"type": "compaction", "output_tokens": 3}]}
            ).digest
        )

    def test_in_an_iteration_are_enough(self) -> None:
        assert decode({"iterations": [{"type": "compaction", "output_tokens": 3}]}).flags == 0


class TestUnrecognizedUsage:
    @pytest.mark.parametrize(
        ("usage", "fields"),
        [
            ({}, ()),
            (
                {"prompt_tokens": 3, "completion_tokens": 4},
                ("usage.prompt_tokens", "usage.completion_tokens"),
            ),
            ({"inputTokens": 3}, ("usage.inputTokens",)),
            ({"usage": {"input_tokens": 3}}, ("usage.usage",)),
            ({"iterations": [], "server_tool_use": {}}, ("usage.server_tool_use", "usage.iterations")),
            ({"input_tokens": None}, ("usage.input_tokens",)),
            (
                {"prompt_tokens": 98805, "completion_tokens": 5120, "cache_read_input_tokens": 66360},
                ("usage.cache_read_input_tokens", "usage.prompt_tokens", "usage.completion_tokens"),
            ),
            (
                {"inputTokens": 3, "cache_creation_input_tokens": 4, "input_tokens": None},
                ("usage.input_tokens", "usage.cache_creation_input_tokens", "usage.inputTokens"),
            ),
        ],
    )
    def test_is_rejected_and_names_known_fields(self, usage: Any, fields: tuple[str, ...]) -> None:
        rejected = rejection(usage)

        assert (rejected.code, rejected.fields) == ("usage_unrecognized", fields)

    @pytest.mark.parametrize(
        "usage",
        [
            {"cache_read_input_tokens": 3},
            {"cache_read_input_tokens": 3, "prompt_tokens": None, "completion_tokens": 0},
            {"iterations": [{"type": "message", "output_tokens": 3}], "total_tokens": 3},
        ],
    )
    def test_is_not_one_with_counters_of_anthropic_too(self, usage: Any) -> None:
        assert decode(usage).flags == 0

    @pytest.mark.parametrize(
        "usage",
        [
            {"output_tokens": 40, "completion_tokens": 40},
            {"output_tokens": 40, "prompt_tokens": 0},
            {"input_tokens": 7, "completion_tokens": None, "total_tokens": 7},
            {"input_tokens": 7, "iterations": [{"output_tokens": 3}], "completion_tokens": 3},
            {"input_tokens": 7, "cache_read_input_tokens": 5, "cacheReadInputTokens": 5, "cached_tokens": 5},
            {"input_tokens": 7, "cacheWriteInputTokens": 0},
        ],
    )
    def test_ignores_foreign_counters_of_what_is_counted_already(self, usage: Any) -> None:
        assert decode(usage).flags == 0

    @pytest.mark.parametrize(
        "usage",
        [
            {"output_tokens": 3, "prompt_tokens": 4},
            {"input_tokens": 3, "completion_tokens": 4},
            {"output_tokens": None, "iterations": [{"output_tokens": 3}], "inputTokens": 5},
            {"input_tokens": 0, "output_tokens": 40, "prompt_tokens": 30},
            {"input_tokens": 7, "output_tokens": 0, "completion_tokens": 40},
            {"input_tokens": 9, "output_tokens": 214, "cacheReadInputTokens": 1066},
            {"input_tokens": 9, "cache_read_input_tokens": 0, "cached_tokens": 1066},
        ],
    )
    def test_is_flagged_if_a_kind_of_tokens_is_counted_only_under_a_foreign_name(self, usage: Any) -> None:
        assert decode(usage).flags == IGNORED

    @pytest.mark.parametrize(
        ("details", "flags"),
        [
            ({"input_tokens_details": {"cached_tokens": 900}}, IGNORED),
            ({"input_token_details": {"cache_read": 900}}, IGNORED),
            ({"prompt_tokens_details": {"cached_tokens": 900}}, IGNORED),
            ({"prompt_tokens_details": None, "input_tokens_details": {}}, 0),
            ({"output_tokens_details": {"thinking_tokens": 9}}, 0),
            ({"new_field": {"input_tokens_details": {"cached_tokens": 900}}}, 0),
        ],
    )
    def test_may_count_cached_tokens_as_input(self, details: Any, flags: int) -> None:
        plain, detailed = decode({"input_tokens": 1000}), decode({"input_tokens": 1000} | details)

        assert detailed.flags == flags
        # Earlier releases did not flag it. A client may repeat their events.
        assert detailed.digest == plain.digest

    @pytest.mark.parametrize(
        ("writes", "flags"),
        [
            ({"ephemeral_24h_input_tokens": 300}, IGNORED),
            (
                {
                    "ephemeral_5m_input_tokens": 1,
                    "ephemeral_1h_input_tokens": 2,
                    "persistent_ephemeral_tokens": 3,
                },
                IGNORED,
            ),
            ({"ephemeral_5m_input_tokens": 1, "ephemeral_24h_input_tokens": 0}, 0),
            ({"ephemeral_5m_input_tokens": 1, "ephemeral_24h_input_tokens": None}, 0),
            ({"ephemeral_5m_input_tokens": 1, "ephemeral_1h_input_tokens": 2}, 0),
        ],
    )
    def test_may_write_to_the_cache_with_an_unknown_time_to_live(self, writes: Any, flags: int) -> None:
        advisor = {"type": "advisor_message", "input_tokens": 1, "output_tokens": 1}
        usages: list[dict[str, Any]] = [
            {"cache_creation": writes},
            {"iterations": [advisor, advisor | {"cache_creation": writes}]},
        ]

        assert [decode({"input_tokens": 1} | usage).flags for usage in usages] == [flags, flags]

    def test_may_write_to_the_cache_under_a_name_that_is_not_utf_8(self) -> None:
        usage = b'{"input_tokens":1,"cache_creation":{"ephemeral_\xff":5}}'
        event = json.dumps(
            {
                "event_id": "e-1",
                "started_at": "2026-11-20T10:00:00Z",
                "model": "m",
                "outcome": "succeeded",
                "usage": 0,
            }
        ).encode()

        assert (
            decode_event(event.replace(b'"usage": 0', b'"usage": ' + usage)).flags
            == IGNORED | UsageFlag.USAGE_NOT_KEPT
        )

    def test_ignores_what_has_no_effect_on_the_cache(self) -> None:
        for other in ("ephemeral_notes", {"ephemeral_24h_input_tokens": 300}, None):
            assert decode({"input_tokens": 1, "new_field": other}).flags == 0

    def test_never_names_a_field_that_the_client_made_up(self) -> None:
        rejected = rejection({make_key(): 1, "my_counter": 2})

        assert (rejected.code, rejected.fields) == ("usage_unrecognized", ())

    def test_the_code_names_the_first_invalid_field(self) -> None:
        assert rejection({"input_tokens": -1}, model="").code == "invalid_model"
        assert rejection({"input_tokens": -1}, model="").fields == ()


class TestKeyWithoutPrefix:
    KEY = "R2Dxx-SECRET_0" + "a1B" * 26 + "0AA"

    @pytest.mark.parametrize(
        "name", ["model", "endpoint_id", "feature", "session_id", "prompt_id", "provider_request_id"]
    )
    def test_is_rejected(self, name: str) -> None:
        assert rejection({"input_tokens": 1}, **{name: self.KEY}).code == "looks_like_key"

    def test_is_too_long_for_an_event_id_and_not_repeated(self) -> None:
        rejected = rejection({"input_tokens": 1}, event_id=self.KEY)

        assert (rejected.code, rejected.event_id) == ("invalid_event_id", None)


class TestOddOptionalFields:
    @pytest.mark.parametrize("model", [5, "m" * 200, {"id": "claude-opus-5"}, []])
    @pytest.mark.parametrize("kind", ["compaction", "advisor_message", "fallback_message"])
    def test_work_of_a_model_that_cannot_be_read_has_no_price(self, kind: str, model: Any) -> None:
        entry = {"type": kind, "model": model, "input_tokens": 1000, "output_tokens": 1}
        found = decode({"input_tokens": 100, "output_tokens": 10, "iterations": [entry]})

        parts, _ = priced_parts("claude-opus-5", found.event.usage)

        assert found.flags == IGNORED
        assert parts[-1].model == UNNAMED_MODEL

    @pytest.mark.parametrize(
        ("odd", "flags"),
        [
            ({"service_tier": 5}, IGNORED | UsageFlag.TIER_ASSUMED),
            ({"speed": ["fast"]}, IGNORED | UsageFlag.SPEED_ASSUMED),
            ({"inference_geo": "x" * 65}, IGNORED | UsageFlag.GEOGRAPHY_ASSUMED),
            ({"service_tier": "a\0b"}, IGNORED | UsageFlag.TIER_ASSUMED),
            ({"iterations": {"type": "message"}}, IGNORED),
            ({"iterations": [7]}, IGNORED),
            ({"iterations": [{"type": 7}]}, IGNORED),
            ({"iterations": [{"type": "message", "model": "x" * 129}]}, IGNORED),
            ({"iterations": [{"type": "message", "cache_creation": 3}]}, IGNORED),
            ({"cache_creation": 3}, IGNORED),
            ({"server_tool_use": "none"}, IGNORED),
        ],
    )
    def test_are_left_out_and_flagged(self, odd: dict[str, Any], flags: UsageFlag) -> None:
        found = decode({"input_tokens": 12, **odd})

        assert UsageFlag(found.flags) == flags
        assert found.event.usage.input_tokens == 12
        assert json.loads(found.usage or b"") == {"input_tokens": 12, **odd}

    def test_of_the_event_are_left_out_and_flagged(self) -> None:
        found = decode({"input_tokens": 12}, stop_reason=7, refusal_category="x" * 65)

        assert (found.event.stop_reason, found.event.refusal_category) == (None, None)
        assert UsageFlag(found.flags) == IGNORED

    def test_make_another_event(self) -> None:
        assert decode({"input_tokens": 12}).digest != decode({"input_tokens": 12, "speed": 7}).digest

    def test_unknown_fields_are_ignored_without_a_flag(self) -> None:
        found = decode({"input_tokens": 12, "new": {"a": [1, None]}, "prompt_tokens": 12})

        assert found.event.usage == UsageObject(input_tokens=12)
        assert found.flags == 0


class TestInstants:
    @pytest.mark.parametrize("field", ["started_at", "completed_at"])
    def test_are_cut_to_microseconds_and_never_rounded(self, field: str) -> None:
        found = decode({"input_tokens": 12.0000000}, **{field: "2026-10-06T23:59:59.9999999Z"})

        assert getattr(found.event, field) == datetime(2026, 10, 6, 23, 59, 59, 999_999, tzinfo=UTC)
        assert found.flags == 0


class TestKeptUsage:
    def test_is_the_object_as_it_was_written(self) -> None:
        raw = (
            b'{"event_id":"e-1","started_at":"2026-11-20T10:00:00Z","model":"m","outcome":"succeeded",'
            b'"usage":{"output_tokens": 5.0,  "new" :[1, {"b":null}]}}'
        )

        assert decode_event(raw).usage == b'{"output_tokens": 5.0,  "new" :[1, {"b":null}]}'

    def test_may_be_as_long_as_a_line(self) -> None:
        usage = {"input_tokens": 1, "new": "x" * (MAX_KEPT_USAGE_BYTES - 50)}

        assert decode(usage).usage is not None
        found = decode(usage | {"more": "x" * 50})
        assert (found.usage, UsageFlag(found.flags)) == (None, UsageFlag.USAGE_NOT_KEPT)

    @pytest.mark.parametrize("is_escaped", [False, True])
    def test_never_contains_a_key(self, is_escaped: bool) -> None:
        raw = json.dumps(
            {
                "event_id": "e-1",
                "started_at": "2026-11-20T10:00:00Z",
                "model": "m",
                "outcome": "succeeded",
                "usage": {"input_tokens": 1, "note": [make_key()]},
            }
        ).encode()
        if is_escaped:
            raw = raw.replace(b"sk-ant-", b"\\u0073k-\\u0061nt-")

        found = decode_event(raw)

        assert (found.usage, UsageFlag(found.flags)) == (None, UsageFlag.USAGE_NOT_KEPT)


class TestDimensions:
    NAMES = ("endpoint_id", "feature", "session_id", "prompt_id")

    @pytest.mark.parametrize("name", NAMES)
    @pytest.mark.parametrize(
        "sent", [" Cafe\u0301", "Café\u200b", "\t\ufeffCafé\xa0\n", "Caf\u00e9"], ids=ascii
    )
    def test_are_stored_composed_and_without_invisible_ends(self, name: str, sent: str) -> None:
        assert getattr(decode({"input_tokens": 1}, **{name: sent}).event, name) == "Café"

    @pytest.mark.parametrize(
        "sent", [" claude-opus-5", "claude-opus-5 ", "Cafe\u0301", "claude\u200b"], ids=ascii
    )
    def test_are_not_models(self, sent: str) -> None:
        assert decode({"input_tokens": 1}, model=sent).event.model == sent

    @pytest.mark.parametrize("name", ["model", *NAMES])
    @pytest.mark.parametrize("sent", [" ", "\u200b", "\u3164\u2800", "\ufeff\u00ad", "\t\r\n"], ids=ascii)
    def test_are_rejected_if_nothing_is_visible(self, name: str, sent: str) -> None:
        rejected = rejection({"input_tokens": 1}, **{name: sent})

        assert (rejected.code, rejected.event_id) == (f"invalid_{name}", "e-1")

    def test_are_rejected_if_they_become_too_long(self) -> None:
        assert rejection({"input_tokens": 1}, feature="\u0958" * 65).code == "invalid_feature"
        assert decode({"input_tokens": 1}, feature="\u0958" * 64).event.feature == "\u0915\u093c" * 64

    def test_do_not_change_the_digest(self) -> None:
        """An event that the previous release stored unchanged is still a duplicate."""
        sent = decode({"input_tokens": 1}, feature="Cafe\u0301")

        assert sent.digest != decode({"input_tokens": 1}, feature="Café").digest
        assert sent.digest == decode({"input_tokens": 1}, feature="Cafe\u0301").digest
