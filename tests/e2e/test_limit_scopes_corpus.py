"""The corpus program for the scopes of spend limits finds every disagreement and no other."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.limit_scopes_corpus import run

pytestmark = pytest.mark.slow

_HAIKU = "claude-haiku-4-5"
_SNAPSHOT = f"{_HAIKU}-20251001"


def case(id_: str, *steps: Any, scope: str | None = _HAIKU, debatable: bool = False) -> dict[str, Any]:
    return {
        "id": id_,
        "scope_model": scope,
        "limit": {"amount": "1.00", "period": "total", "enforcement": "block"},
        "steps": steps,
        "debatable": debatable,
    }


def match(model: str, *, expect: bool) -> dict[str, Any]:
    return {"do": "match", "model": model, "expect": expect}


def reserve(name: str, model: str, output: int, *expect: str) -> dict[str, Any]:
    return {
        "do": "reserve",
        "as": name,
        "model": model,
        "input_tokens": 0,
        "max_output_tokens": output,
        "expect": expect,
    }


def event(model: str, output: int, settles: str | None, **expect: str) -> dict[str, Any]:
    usage = {"input_tokens": 0, "output_tokens": output}
    return {"do": "event", "model": model, "usage": usage, "settles": settles, "expect": expect}


AGREE = [
    case("same", match(_HAIKU, expect=True), match(_SNAPSHOT, expect=True)),
    case("reverse", match(_HAIKU, expect=True), scope=_SNAPSHOT),
    case("other", match("claude-haiku-4-5-5", expect=False), match(f"anthropic/{_HAIKU}", expect=False)),
    case("every-model", match("unheard-of", expect=True), scope=None),
    case(
        "sequence",
        reserve("r1", _HAIKU, 150_000, "granted"),
        event(_SNAPSHOT, 150_000, "r1", spent="0.75", reserved="0.00"),
        reserve("r2", _SNAPSHOT, 150_000, "spend_limit_exceeded"),
        {"do": "filter", "model": _SNAPSHOT, "expect": {"requests": 1}},
    ),
    case(
        "unpriced",
        reserve("r1", _HAIKU, 150_000, "granted"),
        event(f"anthropic/{_HAIKU}", 150_000, "r1", committed_at_least="0.75"),
        reserve("r2", _HAIKU, 150_000, "spend_limit_exceeded", "price_unknown"),
        reserve("r3", "unheard-of", 1, "granted"),
    ),
]
DISAGREE = [
    case("wrong", match(_HAIKU, expect=True), match("claude-haiku-4", expect=True)),
    case("wrong-spent", event(_HAIKU, 150_000, None, spent="0.00", reserved="0.00")),
    case("wrong-debatable", match(f"{_HAIKU}@20251001", expect=True), debatable=True),
]


@pytest.mark.parametrize(
    ("cases", "wrong", "exit_status"),
    [
        (AGREE + DISAGREE, [("wrong", 1), ("wrong-spent", 0), ("wrong-debatable", 0)], 1),
        (DISAGREE[2:], [("wrong-debatable", 0)], 0),
    ],
)
async def test_reports_the_first_step_that_disagrees(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    cases: list[dict[str, Any]],
    wrong: list[tuple[str, int]],
    exit_status: int,
) -> None:
    file = tmp_path / "own.jsonl"
    file.write_text("\n".join(json.dumps(one) for one in cases))

    status = await run([file])

    *lines, counts = map(json.loads, capsys.readouterr().out.splitlines())
    assert [(line["corpus"], line["id"], line["step"]) for line in lines] == [
        ("own.jsonl", *one) for one in wrong
    ]
    assert {*lines[0]} == {"corpus", "id", "step", "expected", "got", "debatable"}
    assert counts == {"cases": len(cases), "disagree": len(wrong) - 1, "debatable_disagree": 1}
    assert status == exit_status
