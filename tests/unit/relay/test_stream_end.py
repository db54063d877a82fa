"""The bytes that end a cut stream. tests/e2e/relay has the same for the parsers of the real SDKs."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.relay.errors import STREAM_INTERRUPTED, RelayError
from app.relay.stream_end import LAST_BYTES, stream_end
from tests.support.relay import meter_oracle
from tests.support.relay.streams import streams

ERROR = RelayError(STREAM_INTERRUPTED)
EVENT = 'event: content_block_delta\ndata: {"delta": {"text": "é…🦜 ẞ 龍 𐀀 ࠀ"}}\n\n'.encode()


def ended(stream: bytes) -> bytes:
    return stream + stream_end(stream[-LAST_BYTES:], ERROR, "req_1")


class TestEnd:
    @pytest.mark.parametrize("event", [EVENT, EVENT.replace(b"\n", b"\r\n")], ids=["lf", "crlf"])
    def test_is_valid_utf8_with_one_error_event_at_every_cut(self, event: bytes) -> None:
        for position in range(len(event) + 1):
            text = ended(event + event[:position]).decode()

            *before, (name, data) = meter_oracle.events(text.encode())
            assert name == "error"
            assert data.endswith(json.dumps(self.body(), separators=(",", ":")))
            # No event that is torn is dispatched: those before are whole.
            assert all(json.loads(whole) for _, whole in before)

    @pytest.mark.parametrize("last_bytes", [b"", b"}\n\n", b"\n\r\n", b"}\r\r"])
    def test_at_a_boundary_is_only_the_event(self, last_bytes: bytes) -> None:
        end = stream_end(last_bytes, ERROR, "req_1")

        assert end.startswith(b"event: error\ndata: {")
        assert end.endswith(b"}\n\n")
        assert json.loads(end.split(b"data: ")[1]) == self.body()

    @pytest.mark.parametrize(
        ("last_bytes", "start"),
        [
            (b"abc", b"\nevent"),
            (b"\xc3", b"\x80\nevent"),
            (b"a\xe2", b"\x80\x80\nevent"),
            (b"a\xe0", b"\xa0\x80\nevent"),
            (b"\xe0\xa0", b"\x80\nevent"),
            (b"\xf0", b"\x90\x80\x80\nevent"),
            (b"\xf0\x90", b"\x80\x80\nevent"),
            (b"\xf0\x9f\xa6", b"\x80\nevent"),
            (b"\xf4", b"\x80\x80\x80\nevent"),
            (b"\xed", b"\x80\x80\nevent"),
            ("é".encode(), b"\nevent"),
            (b"{\n", b"event"),
            (b"{\r", b"\nevent"),
            (b"{\r\n", b"event"),
        ],
    )
    def test_completes_a_torn_character_and_ends_a_torn_line(self, last_bytes: bytes, start: bytes) -> None:
        assert stream_end(last_bytes, ERROR, "req_1").startswith(start)

    @pytest.mark.parametrize("last_bytes", [b"\x80\x80\x80", b"\xff", b"\xc0", b"\xf5", b"ab\x80"])
    def test_bytes_that_were_never_utf8_are_not_completed(self, last_bytes: bytes) -> None:
        assert stream_end(last_bytes, ERROR, "req_1").startswith(b"\nevent: error")

    @settings(max_examples=300)
    @given(st.data())
    def test_any_stream_cut_anywhere_ends_with_the_error(self, data: st.DataObject) -> None:
        stream = data.draw(streams())
        cut = stream[: data.draw(st.integers(0, len(stream)))]

        *_, (name, _) = meter_oracle.events(ended(cut))

        assert name == "error"

    @staticmethod
    def body() -> dict[str, object]:
        return {
            "type": "error",
            "error": {
                "type": "api_error",
                "message": "The provider's response ended before it was complete.",
                "details": {"error_code": "stream_interrupted"},
            },
            "request_id": "req_1",
        }
