"""Tests of the corpus runner: it reports cases in which the service and the corpus disagree."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.url_policy_corpus import UNEXPECTED_LOOKUP, run

HOST = "gw.example.com"
ACCEPTED_CASE = {
    "id": "a",
    "input": f"https://{HOST}",
    "resolves_to": {HOST: ["160.79.104.10"]},
    "expect": "accept",
    "canonical": f"https://{HOST}/v1/messages",
    "reason": "ok",
}
REJECTED_CASE = {
    "id": "r",
    "input": "https://127.0.0.1",
    "resolves_to": None,
    "expect": "reject",
    "canonical": None,
    "reason": "host_is_ip",
}


async def run_on(
    path: Path, capsys: pytest.CaptureFixture[str], *cases: dict[str, Any]
) -> tuple[int, list[Any], str]:
    corpus = path / "corpus.jsonl"
    corpus.write_text("\n".join(json.dumps(case) for case in cases), encoding="utf-8")
    status = await run([corpus])
    *lines, count = capsys.readouterr().out.splitlines()
    return status, [json.loads(line) for line in lines], count


class TestRun:
    async def test_prints_nothing_for_cases_that_agree(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        default = ACCEPTED_CASE | {
            "input": "",
            "resolves_to": None,
            "canonical": "https://api.anthropic.com/v1/messages",
        }
        private = REJECTED_CASE | {
            "input": ACCEPTED_CASE["input"],
            "resolves_to": {HOST: ["10.0.0.1"]},
            "reason": "dns_private_address",
        }
        unresolvable = REJECTED_CASE | {
            "input": ACCEPTED_CASE["input"],
            "resolves_to": {"x": ["1.1.1.1"]},
            "reason": "dns_no_records",
        }
        other_endpoint = REJECTED_CASE | {
            "input": f"https://{HOST}/v1/models",
            "reason": "path_not_allowed",
        }
        alternative_reason = REJECTED_CASE | {"reason": "host_invalid", "alt_reasons": ["host_is_ip"]}

        others: list[dict[str, Any]] = [default, private, unresolvable, other_endpoint, alternative_reason]
        status, lines, count = await run_on(tmp_path, capsys, ACCEPTED_CASE, REJECTED_CASE, *others)

        assert (status, lines) == (0, [])
        assert count == "7 cases: 0 disagreements, and 0 on debatable cases"

    @pytest.mark.parametrize(
        ("case", "got", "reason"),
        [
            (ACCEPTED_CASE | {"expect": "reject", "canonical": None}, "accept", "ok"),
            (ACCEPTED_CASE | {"canonical": f"https://{HOST}"}, "accept", "ok"),
            (ACCEPTED_CASE | {"resolves_to": None}, "reject", UNEXPECTED_LOOKUP),
            (REJECTED_CASE | {"expect": "accept"}, "reject", "host_is_ip"),
            (REJECTED_CASE | {"reason": "malformed"}, "reject", "host_is_ip"),
        ],
    )
    async def test_prints_one_line_for_a_disagreement_and_fails(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], case: dict[str, Any], got: str, reason: str
    ) -> None:
        status, lines, count = await run_on(tmp_path, capsys, case)

        assert [(line["id"], line["expect"], line["got"], line["reason"]) for line in lines] == [
            (case["id"], case["expect"], got, reason)
        ]
        assert (status, count) == (1, "1 cases: 1 disagreements, and 0 on debatable cases")

    async def test_does_not_fail_for_debatable_cases(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        status, lines, count = await run_on(
            tmp_path, capsys, REJECTED_CASE | {"expect": "accept", "debatable": True}
        )

        assert (status, len(lines)) == (0, 1)
        assert count == "1 cases: 0 disagreements, and 1 on debatable cases"
