"""Which functions of the page's modules ran in the browser, over all visits of a test run.

When all tests of the browser ran, `REQUIRED` percent is a bound. A process of a parallel run hands what it saw to the
process that prints the summary.
"""

from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import CDPSession

REQUIRED = 90
TESTS = Path(__file__).parents[2] / "browser"

# `module:position:name` of a function → whether it ran.
FUNCTIONS: dict[str, bool] = {}
# The test files of the browser in which a test ran.
_RAN: set[str] = set()
_STATE = {"is_selection": False}


async def start_recording(session: CDPSession) -> None:
    await session.send("Profiler.enable")
    await session.send("Profiler.startPreciseCoverage", {"callCount": True, "detailed": False})


async def record(session: CDPSession) -> None:
    found: dict[str, Any] = await session.send("Profiler.takePreciseCoverage")
    merge(
        {
            f"{module}:{function['ranges'][0]['startOffset']}:{function['functionName'] or 'anonymous'}": (
                function["ranges"][0]["count"] > 0
            )
            for script in found["result"]
            if (module := script["url"].partition("/billing/")[2]).endswith(".js")
            and not module.startswith("vendor/")
            for function in script["functions"]
        }
    )


def merge(functions: dict[str, bool]) -> None:
    for name, ran in functions.items():
        FUNCTIONS[name] = FUNCTIONS.get(name, False) or ran


def share() -> float:
    return 100 * sum(FUNCTIONS.values()) / len(FUNCTIONS)


def summary() -> list[str]:
    """The share, and the functions that no test reached."""
    ran = sum(FUNCTIONS.values())
    head = f"Billing page: {ran} of {len(FUNCTIONS)} functions of its modules ran in the browser ({share():.1f} %)."
    missing: dict[str, list[str]] = {}
    for name, it in sorted(FUNCTIONS.items()):
        if not it:
            module, position, function = name.split(":")
            missing.setdefault(module, []).append(f"{function}@{position}")
    if not _is_whole():
        return [head]
    return [head, *(f"  not reached in {module}: {', '.join(names)}" for module, names in missing.items())]


def _is_whole() -> bool:
    return not _STATE["is_selection"] and {path.name for path in TESTS.glob("test_*.py")} <= _RAN


class CoverageBound:
    """A pytest plugin: collects from parallel processes, prints the summary, and fails a whole run below the bound."""

    def pytest_deselected(self) -> None:
        _STATE["is_selection"] = True

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        path = Path(report.fspath)
        if report.when == "call" and path.parent.name == TESTS.name:
            _RAN.add(path.name)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        output = getattr(node, "workeroutput", {})
        merge(output.get("page_functions", {}))
        _STATE["is_selection"] |= output.get("page_is_selection", False)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        output = getattr(session.config, "workeroutput", None)
        if output is not None:
            output["page_functions"] = dict(FUNCTIONS)
            output["page_is_selection"] = _STATE["is_selection"]
        elif FUNCTIONS and _is_whole() and share() < REQUIRED and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if not FUNCTIONS:
            return
        is_short = _is_whole() and share() < REQUIRED
        for line in summary():
            terminalreporter.write_line(line, red=is_short)
        if is_short:
            terminalreporter.write_line(f"At least {REQUIRED} % are required.", red=True)
