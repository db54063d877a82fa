"""Starts servers of tests under unprivileged accounts, because PostgreSQL and PgBouncer do not run as root."""

import pwd
import socket
import subprocess
import time
from typing import Any

_SECONDS = 20.0
_STEP_SECONDS = 0.02


def as_account(account: pwd.struct_passwd) -> dict[str, Any]:
    """Arguments of `subprocess.Popen`, for root."""
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def wait_until_listening(port: int, process: "subprocess.Popen[bytes]") -> None:
    """Wait until the process accepts connections on a loopback port."""
    deadline = time.monotonic() + _SECONDS
    while True:
        assert process.poll() is None, f"the process ended with {process.returncode}"
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            assert time.monotonic() < deadline, "the process does not listen"
            time.sleep(_STEP_SECONDS)
        else:
            return
