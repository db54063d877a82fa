"""The hand-written reference pages name every log event, metric, audit action and scope, and no others."""

import ast
import inspect
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from fastapi.routing import APIRoute

from app.audit.events import AuditAction
from app.auth.principal import SERVICE_SCOPES, Scope
from app.composition.routes import ROUTERS
from app.observability.metrics import metrics_text
from tests.support.documentation import ROOT

REFERENCE = ROOT / "docs" / "reference"
LOGS = "## Logs"
METRICS = "## Metrics"
OPERATIONS = "## Operations by scope"
LEVELS = {"debug", "info", "warning", "error", "exception"}
LOGGERS = {"log", "_log", "logger", "_logger"}


def section(page: str, heading: str) -> str:
    text = (REFERENCE / page).read_text(encoding="utf-8")
    return text.partition(f"{heading}\n")[2].partition("\n## ")[0]


def first_column(text: str) -> set[str]:
    """The code in the first column of all tables."""
    return {
        code
        for row in re.findall(r"^\| (.*?) \|", text, re.MULTILINE)
        for code in re.findall(r"`([^`]+)`", row)
    }


def logged_events() -> Iterator[str]:
    """The events that the service logs. Only the constant part of a message counts."""
    for path in Path(ROOT / "app").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.Call(
                    func=ast.Attribute(value=ast.Name(id=logger), attr=level),
                    args=[ast.Constant(value=str() as event), *_],
                ) if logger in LOGGERS and level in LEVELS:
                    yield event.partition(":")[0]
                case _:
                    pass


class TestLogs:
    def test_all_events_are_listed(self) -> None:
        listed = {event.partition(":")[0] for event in first_column(section("metrics-and-logs.md", LOGS))}

        assert listed - {"event"} == set(logged_events())


class TestMetrics:
    def test_all_metrics_are_listed(self) -> None:
        # `..._created` is the library's own: the time of the first count, once there is one.
        names = set(re.findall(r"^# TYPE (byok_\w+) \w+$", metrics_text().decode(), re.MULTILINE))
        exported = {name for name in names if not name.endswith("_created")}

        assert first_column(section("metrics-and-logs.md", METRICS)) == exported


class TestAuditActions:
    def test_all_actions_are_listed(self) -> None:
        text = (REFERENCE / "audit-actions.md").read_text(encoding="utf-8")

        assert first_column(text) == {action.value for action in AuditAction}


def scopes_of(route: APIRoute) -> Iterator[tuple[Scope, bool]]:
    """The scopes that a route requires, and whether only for internal services."""
    for dependency in route.dependant.dependencies:
        if inspect.isfunction(dependency.call) and dependency.call.__closure__:
            names = inspect.getclosurevars(dependency.call).nonlocals
            if "scope" in names:
                yield names["scope"], names["service_only"] or names["scope"] in SERVICE_SCOPES


class TestScopes:
    def test_all_operations_are_listed(self) -> None:
        required: dict[tuple[str, bool], set[str]] = defaultdict(set)
        for route in (route for router in ROUTERS for route in router.routes if isinstance(route, APIRoute)):
            for scope, is_internal in scopes_of(route):
                required[scope, is_internal].add(str(route.operation_id))
        required[Scope.CREDENTIALS_WRITE, False].add("checkProviderUrl")  # has no organization in its path

        listed: dict[tuple[str, bool], set[str]] = {}
        for row in re.findall(r"^\| `\w+:\w+` \|.*\|$", section("scopes.md", OPERATIONS), re.MULTILINE):
            _, scope, for_all, for_internal, _ = (cell.strip(" `") for cell in row.split("|"))
            for is_internal, cell in ((False, for_all), (True, for_internal)):
                if operations := set(re.findall(r"\w*[a-z][A-Z]\w*", cell)):
                    listed[scope, is_internal] = operations
        assert listed == dict(required)
