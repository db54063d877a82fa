"""The corpus runner: our own cases, and what it reports about disagreements."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.usage_costs_corpus import run

CASES = Path(__file__).with_name("usage_costs.jsonl")


def write_case(path: Path, **changes: Any) -> Path:
    case = json.loads(CASES.read_text(encoding="utf-8").splitlines()[0])
    path.write_text(json.dumps(case | changes) + "\n", encoding="utf-8")
    return path


def printed(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


class TestUsageCostsCorpus:
    def test_our_own_cases_agree(self, capsys: pytest.CaptureFixture[str]) -> None:
        status = run([CASES])

        count = len(CASES.read_text(encoding="utf-8").splitlines())
        assert printed(capsys) == [{"cases": count, "disagree": 0, "debatable_disagree": 0}]
        assert status == 0

    @pytest.mark.parametrize(
        "expect",
        [
            {"cost": "0.0074", "rejected": False, "flags_any": []},
            {"cost": None, "rejected": False, "flags_any": []},
            {"cost": "0.0075", "rejected": False, "flags_any": ["tier_assumed"]},
            {"cost": None, "rejected": True, "flags_any": []},
        ],
    )
    def test_a_disagreement_is_printed_and_fails(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], expect: dict[str, Any]
    ) -> None:
        status = run([write_case(tmp_path / "cases.jsonl", expect=expect)])

        line, counts = printed(capsys)
        assert (line["corpus"], line["id"], line["expected"]) == ("cases.jsonl", "plain", expect)
        assert line["got"] == {"rejected": False, "cost": "0.0075", "flags": [], "code": None}
        assert line["debatable"] is False
        assert counts == {"cases": 1, "disagree": 1, "debatable_disagree": 0}
        assert status == 1

    def test_a_debatable_disagreement_does_not_fail(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = write_case(
            tmp_path / "cases.jsonl",
            expect={"cost": "1", "rejected": False, "flags_any": []},
            debatable=True,
        )

        status = run([path])

        assert printed(capsys)[-1] == {"cases": 1, "disagree": 0, "debatable_disagree": 1}
        assert status == 0
