"""nginx and HAProxy before the service, with the configurations of docs/deploy."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.database.accounts import free_port, wait_until_listening

DEPLOY = Path(__file__).parents[3] / "docs" / "deploy"
_NGINX = """
daemon off;
worker_processes 1;
pid {home}/nginx.pid;
error_log {home}/error.log;
events {{ }}
http {{
    client_body_temp_path {home}/bodies;
    proxy_temp_path {home}/responses;
    fastcgi_temp_path {home}/fastcgi;
    uwsgi_temp_path {home}/uwsgi;
    scgi_temp_path {home}/scgi;
{site}
}}
"""


@dataclass(frozen=True, kw_only=True)
class Proxy:
    """A running proxy, which ends TLS."""

    url: str
    home: Path

    def files(self) -> dict[Path, str]:
        """What it has written: logs, and bodies that did not fit into its memory."""
        written = [path for path in self.home.rglob("*") if path.is_file() and path.suffix != ".conf"]
        return {path: path.read_text(errors="replace") for path in written}


def program(name: str) -> str | None:
    """The path of the program; Debian installs it outside the PATH of ordinary users."""
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")


def _changed(file: str, changes: Sequence[tuple[str, str]]) -> str:
    """The documented configuration with other addresses. Each of them must occur."""
    text = (DEPLOY / file).read_text()
    for documented, used in changes:
        assert documented in text, f"{file} does not contain {documented}"
        text = text.replace(documented, used)
    return text


def _nginx(home: Path, port: int, certificate: Path, servers: Sequence[int]) -> list[str]:
    changes = [
        (
            "server 127.0.0.1:8000 max_fails=0;",
            " ".join(f"server 127.0.0.1:{server} max_fails=0;" for server in servers),
        ),
        ("listen 443 ", f"listen 127.0.0.1:{port} "),
        ("/etc/byok/proxy.pem", str(certificate)),
        ("/etc/byok/proxy.key", str(certificate)),
        ("/var/log/nginx/byok.log", str(home / "access.log")),
    ]
    configuration = home / "nginx.conf"
    configuration.write_text(_NGINX.format(home=home, site=_changed("nginx.conf", changes)))
    # As root, the workers have another account.
    account = "user root;" if os.geteuid() == 0 else ""
    return [str(program("nginx")), "-c", str(configuration), "-e", str(home / "error.log"), "-g", account]


def _haproxy(home: Path, port: int, certificate: Path, servers: Sequence[int]) -> list[str]:
    named = "\n".join(f"    server n{server} 127.0.0.1:{server}" for server in servers)
    changes = [
        ("    server one 127.0.0.1:8000", named),
        ("bind :443 ", f"bind 127.0.0.1:{port} "),
        ("/etc/byok/proxy.pem", str(certificate)),
        ("log /dev/log local0", "log stdout format raw local0"),
    ]
    configuration = home / "haproxy.conf"
    configuration.write_text(_changed("haproxy.cfg", changes))
    return [str(program("haproxy")), "-f", str(configuration)]


PROXIES: dict[str, Callable[[Path, int, Path, Sequence[int]], list[str]]] = {
    "nginx": _nginx,
    "haproxy": _haproxy,
}


@contextmanager
def proxy_before(name: str, certificate: Path, *servers: int) -> Iterator[Proxy]:
    """Run the proxy before the loopback ports, with a certificate and its key in one file."""
    with tempfile.TemporaryDirectory(prefix="byok-proxy-", ignore_cleanup_errors=True) as directory:
        home, port = Path(directory), free_port()
        command = PROXIES[name](home, port, certificate, servers)
        with (
            (home / "output.log").open("wb") as output,
            subprocess.Popen(
                command, cwd="/", stdin=subprocess.DEVNULL, stdout=output, stderr=output
            ) as process,
        ):
            try:
                wait_until_listening(port, process)
                yield Proxy(url=f"https://127.0.0.1:{port}", home=home)
            finally:
                process.terminate()
