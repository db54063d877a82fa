"""What every command of `byok` does: the variables that it removes, and how it shows errors."""

import os
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from app.cli import main
from app.cli.commands import _Commands
from app.core.keys.api_key import ApiKey
from app.database.migrations import MigrationFailed
from app.secret_maintenance.progress import OperationRefused
from app.settings.environment import SettingsRefused

KEY = "sk-ant-api03-" + "a-key-that-must-not-be-printed" * 3


def test_removes_sslkeylogfile(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "secrets"))

    assert CliRunner().invoke(main, ["openapi"]).exit_code == 0

    assert "SSLKEYLOGFILE" not in os.environ


def run(command: Callable[[], None], *, name: str = "migrate") -> Result:
    """Run a function as a command of this name."""
    group = _Commands("byok")
    group.add_command(click.Command(name, callback=command))
    return CliRunner().invoke(group, [name])


def raising(error: BaseException) -> Callable[[], None]:
    def command() -> None:
        raise error

    return command


class TestErrors:
    def test_print_a_line_for_each_refused_setting(self) -> None:
        result = run(raising(SettingsRefused("BYOK_PORT: must be a whole number", "BYOK_HOST: is missing")))

        assert result.exit_code == 2
        assert result.output == "Error: BYOK_PORT: must be a whole number\nBYOK_HOST: is missing\n"

    @pytest.mark.parametrize("kind", [MigrationFailed, OperationRefused])
    def test_print_the_message_of_a_refused_operation(self, kind: type[Exception]) -> None:
        result = run(raising(kind("Another command is running")))

        assert (result.exit_code, result.output) == (1, "Error: Another command is running\n")

    @pytest.mark.parametrize("error", [ValueError(KEY), RuntimeError(f"{ApiKey(KEY)} and {KEY}")])
    def test_print_type_and_place_of_an_unexpected_error_but_not_its_message(self, error: Exception) -> None:
        result = run(raising(error))

        assert result.exit_code == 1
        assert f"unexpected {type(error).__name__}" in result.output
        assert "in command" in result.output
        assert KEY not in result.output

    @pytest.mark.parametrize(("name", "status"), [("serve", 0), ("worker", 0), ("migrate", 130)])
    def test_are_not_signals_that_end_a_service(self, name: str, status: int) -> None:
        assert run(raising(KeyboardInterrupt()), name=name).exit_code == status
