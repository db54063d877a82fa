"""The runner of corpora of provider responses, over real sockets."""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.provider.corpus_runner import run
from tests.support.provider.provider_answers import FILE, cases

CASE: dict[str, Any] = {
    "id": "made-up",
    "host": "custom",
    "probe": "empty",
    "status": 401,
    "headers": {"content-type": "text/plain"},
    "body": {"text": "invalid api key"},
    "expect": {"status": "invalid", "reasons": ["invalid_key"]},
}


def corpus(directory: Path, *changed: dict[str, Any]) -> Path:
    """A corpus file of `CASE` with these changes."""
    path = directory / "made-up.jsonl"
    path.write_text("".join(json.dumps(CASE | change) + "\n" for change in changed), encoding="utf-8")
    return path


async def report(capsys: pytest.CaptureFixture[str], path: Path) -> tuple[int, list[dict[str, Any]]]:
    """The exit status and the printed lines."""
    status = await run([path])
    return status, [json.loads(line) for line in capsys.readouterr().out.splitlines()]


class TestRun:
    async def test_agrees_with_all_cases_of_the_decision_table(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        status, lines = await report(capsys, FILE)

        assert lines == [{"cases": len(cases()), "disagree": 0, "debatable_disagree": 0}]
        assert status == 0

    async def test_prints_a_line_for_each_disagreement(
        self, capsys: pytest.CaptureFixture[str], tmp_path: Path
    ) -> None:
        expected = {"status": "valid", "reasons": ["ok"]}

        status, lines = await report(capsys, corpus(tmp_path, {}, {"expect": expected}))

        assert lines == [
            {
                "corpus": "made-up.jsonl",
                "id": "made-up",
                "expected": expected,
                "expect": expected,
                "got": {"status": "invalid", "reason": "invalid_key", "row": "401.refused"},
                "debatable": False,
            },
            {"cases": 2, "disagree": 1, "debatable_disagree": 0},
        ]
        assert status == 1

    async def test_debatable_disagreement_is_counted_apart(
        self, capsys: pytest.CaptureFixture[str], tmp_path: Path
    ) -> None:
        path = corpus(tmp_path, {"expect": {"status": "valid", "reasons": ["ok"]}, "debatable": True})

        status, lines = await report(capsys, path)

        assert lines[-1] == {"cases": 1, "disagree": 0, "debatable_disagree": 1}
        assert status == 0

    async def test_accepts_other_outcomes(self, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
        accepted = [CASE["expect"]]
        path = corpus(tmp_path, {"expect": {"status": "valid", "reasons": ["ok"]}, "also": accepted})

        assert (await report(capsys, path))[0] == 0

    async def test_status_and_reason_are_compared_together(
        self, capsys: pytest.CaptureFixture[str], tmp_path: Path
    ) -> None:
        limited = {"status": 429, "body": {"error": {"message": "Slow down"}}}
        valid = {"expect": {"status": "valid", "reasons": ["rate_limited"]}}
        indeterminate = {"expect": {"status": "indeterminate", "reasons": ["rate_limited"]}}

        status, lines = await report(capsys, corpus(tmp_path, limited | valid, limited | indeterminate))

        assert (status, lines[-1]["disagree"]) == (1, 1)

    @pytest.mark.parametrize(
        "change",
        [
            {"status": "many"},
            {"body": {"text": "x", "charset": "klingon"}},
            {"headers": {"x": "a\r\nb"}},
            {"probe": "other"},
            {"host": "other"},
            {"expect": None},
        ],
        ids=["status", "charset", "header", "probe", "host", "expect"],
    )
    async def test_case_that_cannot_be_fed_is_a_disagreement(
        self, capsys: pytest.CaptureFixture[str], tmp_path: Path, change: dict[str, Any]
    ) -> None:
        status, lines = await report(capsys, corpus(tmp_path, change))

        assert (status, lines[-1]["disagree"]) == (1, 1)
        assert "error" in lines[0]["got"]


class TestCommand:
    @pytest.mark.parametrize(("expected", "status"), [("invalid", 0), ("valid", 1)])
    async def test_exit_status_shows_disagreements(self, tmp_path: Path, expected: str, status: int) -> None:
        reasons = CASE["expect"]["reasons"]
        path = corpus(tmp_path, {"expect": {"status": expected, "reasons": reasons}})

        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.provider_answers_corpus", str(path)),
            cwd=Path(__file__).parents[3],
            stdout=asyncio.subprocess.PIPE,
        )
        output, _ = await process.communicate()

        last = json.loads(output.splitlines()[-1])
        assert last == {"cases": 1, "disagree": status, "debatable_disagree": 0}
        assert process.returncode == status
