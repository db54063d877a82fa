"""`byok` as a process of its own, with an environment of its own."""

import asyncio
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

BYOK = (sys.executable, "-m", "app.cli")
PATIENCE_SECONDS = 60.0

# What a developer's shell may hold and a test must not obey.
_FOREIGN = ("BYOK_", "OTEL_", "SSL_CERT_", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")


@contextmanager
def private_directory() -> Iterator[Path]:
    """A temporary directory that PostgreSQL, another user where root starts it, may pass through."""
    with tempfile.TemporaryDirectory(prefix="byok-e2e-", ignore_cleanup_errors=True) as name:
        directory = Path(name).resolve()
        directory.chmod(0o711)
        yield directory


def environment(settings: Mapping[str, str]) -> dict[str, str]:
    """This process's environment without settings of ours, and then these; names go without the prefix."""
    inherited = {name: value for name, value in os.environ.items() if not name.upper().startswith(_FOREIGN)}
    # Modules are compiled once for all the processes of a run, wherever the checkout may be written to or not.
    inherited.pop("PYTHONDONTWRITEBYTECODE", None)
    inherited["PYTHONPYCACHEPREFIX"] = f"{tempfile.gettempdir()}/byok-e2e-bytecode-{os.getuid()}"
    given = {name if name.startswith("OTEL_") else f"BYOK_{name}": value for name, value in settings.items()}
    # Nobody listens there: whatever host a test names, no question about it leaves this machine.
    return inherited | {"BYOK_DNS__NAMESERVERS": "127.0.0.1:9"} | given


@dataclass(frozen=True, kw_only=True)
class Ended:
    """What a command said, and how it ended."""

    code: int
    stdout: str
    stderr: str


async def byok(*arguments: str, cwd: Path, **settings: str) -> Ended:
    """Run one command to its end."""
    process = await asyncio.create_subprocess_exec(
        *BYOK,
        *arguments,
        cwd=cwd,
        env=environment(settings),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            stdout, stderr = await process.communicate()
    except TimeoutError:
        process.kill()
        pytest.fail(f"byok {' '.join(arguments)} does not end")
    assert process.returncode is not None
    return Ended(code=process.returncode, stdout=stdout.decode(), stderr=stderr.decode())
