"""The corpus runner tells agreement from disagreement."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.url_policy_corpus import ASKED_A_RESOLVER, run

HOST = "gw.example.com"
ACCEPTED = {
    "id": "a",
    "input": f"https://{HOST}",
    "resolves_to": {HOST: ["160.79.104.10"]},
    "expect": "accept",
    "canonical": f"https://{HOST}/v1/messages",
    "reason": "ok",
}
REFUSED = {
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
    async def test_agreement_is_silent(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        default = ACCEPTED | {
            "input": "",
            "resolves_to": None,
            "canonical": "https://api.anthropic.com/v1/messages",
        }
        private = REFUSED | {
            "input": ACCEPTED["input"],
            "resolves_to": {HOST: ["10.0.0.1"]},
            "reason": "dns_private_address",
        }
        nowhere = REFUSED | {
            "input": ACCEPTED["input"],
            "resolves_to": {"x": ["1.1.1.1"]},
            "reason": "dns_no_records",
        }
        also_true = REFUSED | {"reason": "host_invalid", "alt_reasons": ["host_is_ip"]}

        status, lines, count = await run_on(
            tmp_path, capsys, ACCEPTED, REFUSED, default, private, nowhere, also_true
        )

        assert (status, lines) == (0, [])
        assert count == "6 cases: 0 disagreements, and 0 on debatable cases"

    @pytest.mark.parametrize(
        ("case", "got", "reason"),
        [
            (ACCEPTED | {"expect": "reject", "canonical": None}, "accept", "ok"),
            (ACCEPTED | {"canonical": f"https://{HOST}"}, "accept", "ok"),
            (ACCEPTED | {"resolves_to": None}, "reject", ASKED_A_RESOLVER),
            (REFUSED | {"expect": "accept"}, "reject", "host_is_ip"),
            (REFUSED | {"reason": "malformed"}, "reject", "host_is_ip"),
        ],
    )
    async def test_disagreement_is_one_line_and_a_failure(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], case: dict[str, Any], got: str, reason: str
    ) -> None:
        status, lines, count = await run_on(tmp_path, capsys, case)

        assert [(line["id"], line["expect"], line["got"], line["reason"]) for line in lines] == [
            (case["id"], case["expect"], got, reason)
        ]
        assert (status, count) == (1, "1 cases: 1 disagreements, and 0 on debatable cases")

    async def test_debatable_cases_fail_nothing(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        status, lines, count = await run_on(
            tmp_path, capsys, REFUSED | {"expect": "accept", "debatable": True}
        )

        assert (status, len(lines)) == (0, 1)
        assert count == "1 cases: 0 disagreements, and 1 on debatable cases"
