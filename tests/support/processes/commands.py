"""Runs `byok` commands as separate processes with a controlled environment."""

import asyncio
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

BYOK = (sys.executable, "-m", "app.cli")
TIMEOUT_SECONDS = 60.0
_CHECKOUT = Path(__file__).parents[3]

# Variables of the developer's shell that must not affect tests.
_NOT_INHERITED = ("BYOK_", "OTEL_", "SSL_CERT_", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")


@contextmanager
def private_directory(parent: Path | None = None) -> Iterator[Path]:
    """Create a temporary directory that PostgreSQL may traverse. If root starts it, PostgreSQL runs as another user."""
    with tempfile.TemporaryDirectory(prefix="byok-e2e-", dir=parent, ignore_cleanup_errors=True) as name:
        directory = Path(name).resolve()
        directory.chmod(0o711)
        yield directory


def environment(settings: Mapping[str, str]) -> dict[str, str]:
    """The environment of this process without BYOK_ variables, plus these settings, whose names have no prefix."""
    inherited = {
        name: value for name, value in os.environ.items() if not name.upper().startswith(_NOT_INHERITED)
    }
    # All processes of a run share compiled modules, even if the checkout is read-only.
    inherited.pop("PYTHONDONTWRITEBYTECODE", None)
    if not all(os.access(directory, os.W_OK) for directory in (_CHECKOUT, sys.prefix)):
        inherited["PYTHONPYCACHEPREFIX"] = f"{tempfile.gettempdir()}/byok-e2e-bytecode-{os.getuid()}"
    given = {name if name.startswith("OTEL_") else f"BYOK_{name}": value for name, value in settings.items()}
    # No server listens on this port, so that no DNS query leaves this machine.
    return inherited | {"BYOK_DNS__NAMESERVERS": "127.0.0.1:9"} | given


@dataclass(frozen=True, kw_only=True)
class CommandResult:
    """The output and the exit code of a command."""

    code: int
    stdout: str
    stderr: str


async def byok(*arguments: str, cwd: Path, program: Sequence[str] = BYOK, **settings: str) -> CommandResult:
    """Run one command and wait for its exit."""
    process = await asyncio.create_subprocess_exec(
        *program,
        *arguments,
        cwd=cwd,
        env=environment(settings),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            stdout, stderr = await process.communicate()
    except TimeoutError:
        process.kill()
        pytest.fail(f"byok {' '.join(arguments)} does not exit")
    assert process.returncode is not None
    return CommandResult(code=process.returncode, stdout=stdout.decode(), stderr=stderr.decode())
