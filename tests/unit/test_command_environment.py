"""What `byok` does not let the libraries find in its environment."""

import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from app.cli import main


def test_no_file_for_the_secrets_of_tls_connections_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "secrets"))

    assert CliRunner().invoke(main, ["openapi"]).exit_code == 0

    assert "SSLKEYLOGFILE" not in os.environ
