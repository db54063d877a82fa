"""What a test run must have: BYOK_TEST_REQUIRE=vault,namespaces,browser,node,pooler,proxies,replica makes missing tools an error.

Without the setting, tests that need a missing tool are skipped, and the summary names the reason.
"""

import os
import shutil
import subprocess

import pytest

from tests.support.database.bare_servers import installations
from tests.support.database.pooler import pooler_program
from tests.support.network.reverse_proxies import PROXIES, program
from tests.support.vault.real_server import is_real_vault_available


def _has_namespaces() -> bool:
    """Whether this process may create network namespaces."""
    ip = shutil.which("ip")
    if ip is None:
        return False
    name = f"byok-check-{os.getpid()}"
    created = subprocess.run([ip, "netns", "add", name], capture_output=True, check=False).returncode == 0
    if created:
        subprocess.run([ip, "netns", "del", name], capture_output=True, check=False)
    return created


def _has_browser() -> bool:
    return shutil.which("chromium") is not None


def _has_node() -> bool:
    return shutil.which("node") is not None and shutil.which("npm") is not None


def _has_pooler() -> bool:
    return pooler_program() is not None


def _has_proxies() -> bool:
    return all(program(name) is not None for name in PROXIES)


def _has_debian_postgresql() -> bool:
    """Without it, the tests of replicas run on the servers of the wheel."""
    return any(name.startswith("Debian") for name in installations())


needs_pooler = pytest.mark.skipif(not _has_pooler(), reason="needs the Debian package pgbouncer")

CHECKS = {
    "vault": (is_real_vault_available, "put bao or vault on PATH, or set BYOK_TEST_VAULT_ADDR"),
    "namespaces": (_has_namespaces, "install the Debian package iproute2, and run as root"),
    "pooler": (_has_pooler, "install the Debian package pgbouncer: scripts/install-servers"),
    "proxies": (_has_proxies, "install the Debian packages nginx-light and haproxy: scripts/install-servers"),
    "replica": (_has_debian_postgresql, "install the Debian package postgresql-15: scripts/install-servers"),
    "browser": (_has_browser, "install the Debian package chromium: scripts/install-browser"),
    "node": (_has_node, "install the Debian packages nodejs and npm: scripts/install-servers"),
}


def check_required() -> None:
    """Raise pytest.UsageError if a tool that BYOK_TEST_REQUIRE names is missing."""
    names = _required()
    unknown = sorted(set(names) - CHECKS.keys())
    if unknown:
        message = f"BYOK_TEST_REQUIRE names {', '.join(unknown)}; known are {', '.join(CHECKS)}."
        raise pytest.UsageError(message)
    for name in names:
        is_available, advice = CHECKS[name]
        if not is_available():
            message = f"BYOK_TEST_REQUIRE names {name}, which is missing: {advice}."
            raise pytest.UsageError(message)


def is_required(name: str) -> bool:
    """Whether a test that cannot use this tool must fail, not be skipped."""
    return name in _required()


def _required() -> list[str]:
    return [name.strip() for name in os.environ.get("BYOK_TEST_REQUIRE", "").split(",") if name.strip()]
