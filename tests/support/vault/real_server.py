"""Finds a real Vault or OpenBao for tests: BYOK_TEST_VAULT_ADDR, else `bao` or `vault` on PATH in dev mode."""

import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.error import URLError
from urllib.request import Request, urlopen

_START_SECONDS = 30
_BINARIES = ("bao", "vault")


@dataclass(frozen=True, kw_only=True)
class RealServer:
    """A running server and its root token. `pid` is set if the tests have started it."""

    address: str
    token: str = field(repr=False)
    pid: int | None = None


def server_binary() -> str | None:
    return next((found for name in _BINARIES if (found := shutil.which(name))), None)


def is_real_vault_available() -> bool:
    """Whether the tests can use a real server."""
    return bool(os.environ.get("BYOK_TEST_VAULT_ADDR")) or server_binary() is not None


def availability_message() -> str:
    """The line about Vault at the end of a test run."""
    if is_real_vault_available():
        return f"Vault: the secret store tests also ran over {os.environ.get('BYOK_TEST_VAULT_ADDR') or server_binary()}."
    return (
        "No Vault: the secret store tests ran only over the embedded store and fakes."
        " Set BYOK_TEST_VAULT_ADDR, or put bao or vault on PATH."
    )


@contextmanager
def real_server() -> Iterator[RealServer]:
    """The server from BYOK_TEST_VAULT_ADDR, or a new one in dev mode."""
    address = os.environ.get("BYOK_TEST_VAULT_ADDR")
    if address:
        yield RealServer(address=address, token=os.environ["BYOK_TEST_VAULT_TOKEN"])
        return
    with dev_server() as server:
        yield server


@contextmanager
def dev_server(*options: str) -> Iterator[RealServer]:
    """A new Vault server in memory, which the test may break."""
    found = server_binary()
    assert found is not None
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        listen = f"127.0.0.1:{reserved.getsockname()[1]}"
    # A random token: if another process has taken the port in the meantime, its server is not mistaken for ours.
    token = secrets.token_hex(16)
    process = subprocess.Popen(
        [
            found,
            "server",
            "-dev",
            f"-dev-root-token-id={token}",
            f"-dev-listen-address={listen}",
            "-dev-no-store-token",
            *options,
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/")},
    )
    try:
        server = RealServer(address=f"http://{listen}", token=token, pid=process.pid)
        _wait_until_up(server, process)
        yield server
    finally:
        process.kill()
        process.wait(_START_SECONDS)


def _wait_until_up(server: RealServer, process: "subprocess.Popen[bytes]") -> None:
    request = Request(  # noqa: S310  # our own address
        f"{server.address}/v1/auth/token/lookup-self", headers={"X-Vault-Token": server.token}
    )
    ends_at = time.monotonic() + _START_SECONDS
    while time.monotonic() < ends_at and process.poll() is None:
        try:
            with urlopen(request, timeout=1):  # noqa: S310  # our own address
                return
        except (URLError, OSError):
            time.sleep(0.02)
    raise RuntimeError("the Vault server did not start")
