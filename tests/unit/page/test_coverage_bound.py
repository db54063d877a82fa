"""The bound on functions of the page that run in the browser: it fails a whole run, and only a whole run."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests.support.page import coverage
from tests.support.page.coverage import REQUIRED, TESTS, CoverageBound


def finish(monkeypatch: pytest.MonkeyPatch, *, ran: int, of: int, is_selection: bool = False) -> Any:
    """The exit status of a run in which `ran` of `of` functions ran."""
    monkeypatch.setattr(coverage, "FUNCTIONS", {f"api.js:{it}:f": it < ran for it in range(of)})
    monkeypatch.setattr(coverage, "_RAN", {path.name for path in TESTS.glob("test_*.py")})
    monkeypatch.setattr(coverage, "_STATE", {"is_selection": is_selection})
    session = SimpleNamespace(config=SimpleNamespace(), exitstatus=pytest.ExitCode.OK)
    CoverageBound().pytest_sessionfinish(cast("pytest.Session", session))
    return session.exitstatus


class TestBound:
    def test_fails_a_whole_run_below_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert finish(monkeypatch, ran=REQUIRED - 1, of=100) == pytest.ExitCode.TESTS_FAILED

    def test_accepts_a_run_that_reaches_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert finish(monkeypatch, ran=REQUIRED, of=100) == pytest.ExitCode.OK

    def test_ignores_a_selection_of_tests(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert finish(monkeypatch, ran=1, of=100, is_selection=True) == pytest.ExitCode.OK

    def test_hands_what_a_parallel_process_saw_to_the_first_one(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(coverage, "FUNCTIONS", {"api.js:0:f": False})
        monkeypatch.setattr(coverage, "_STATE", {"is_selection": False})
        output = {"page_functions": {"api.js:0:f": True}, "page_is_selection": True}
        CoverageBound().pytest_testnodedown(SimpleNamespace(workeroutput=output))
        assert coverage.FUNCTIONS == {"api.js:0:f": True}
        assert coverage._STATE == {"is_selection": True}
