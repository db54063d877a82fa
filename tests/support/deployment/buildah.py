"""Builds an image without a daemon and runs commands in it: Debian's `buildah`, isolated by chroot.

The base image is made from Debian's packages, because a test must not depend on a registry of images.
"""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

TOOLS = ("buildah", "debootstrap")
_PACKAGES = "python3,python3-venv,python3-pip,ca-certificates"
# What the machine needs to reach the registry of packages, through a mirror or a private CA.
_PASSED_ON = ("PIP_INDEX_URL", "UV_INDEX_URL", "UV_DEFAULT_INDEX", "HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY")
_CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
_BUILD_SECONDS = 900


def missing_tools() -> list[str]:
    """What keeps this machine from building an image."""
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    return missing if os.geteuid() == 0 else [*missing, "root"]


@dataclass(frozen=True, kw_only=True)
class Container:
    """A working container: its files, and the settings of its image."""

    buildah: "Buildah"
    name: str
    config: Mapping[str, Any] = field(repr=False)

    def command(
        self,
        command: Sequence[str],
        *,
        environment: Mapping[str, str],
        volumes: Mapping[Path, str] | None = None,
    ) -> list[str]:
        """The program and arguments that run a command as the image's user, with these variables and volumes."""
        variables = [f"--env={name}={value}" for name, value in environment.items()]
        mounts = [f"--volume={source}:{target}" for source, target in (volumes or {}).items()]
        options = ["--isolation", "chroot", "--cap-drop", "all", *variables, *mounts]
        return self.buildah.command("run", *options, self.name, "--", *command)

    @property
    def health_check(self) -> list[str]:
        """The command of HEALTHCHECK."""
        kind, *command = self.config["Healthcheck"]["Test"]
        assert kind == "CMD"
        return [str(part) for part in command]

    def started_with(self, *command: str) -> list[str]:
        """What the image runs for a command, by default its own."""
        return [*self.config["Entrypoint"], *(command or self.config["Cmd"])]


@dataclass(frozen=True, kw_only=True)
class Buildah:
    """Images and containers in one directory."""

    directory: Path

    def command(self, *arguments: str) -> list[str]:
        roots = ("--root", str(self.directory / "storage"), "--runroot", str(self.directory / "run"))
        return ["env", "STORAGE_DRIVER=vfs", "buildah", *roots, *arguments]

    def run(self, *arguments: str) -> str:
        return _run(self.command(*arguments))

    def make_base(self, dockerfile: Path) -> str:
        """Make the base image that a Dockerfile names, such as `python:3.11-slim-bookworm`. Returns its full name."""
        found = re.search(r"^ARG PYTHON_IMAGE=(\S+)$", dockerfile.read_text(encoding="utf-8"), re.MULTILINE)
        assert found is not None
        name = found[1].partition("@")[0]
        root = self.directory / "base"
        # Without a mirror, debootstrap uses Debian's own.
        _run(
            ["debootstrap", "--variant=minbase", f"--include={_PACKAGES}", name.rpartition("-")[2], str(root)]
        )
        # As in the image of that name: `python` and `pip` may install.
        (root / "usr/bin/python").symlink_to("python3")
        for marker in root.glob("usr/lib/python3.*/EXTERNALLY-MANAGED"):
            marker.unlink()
        shutil.copy(_CERTIFICATES, root / _CERTIFICATES.relative_to("/"))
        container = self.run("from", "scratch").strip()
        self.run("copy", "--quiet", container, str(root), "/")
        shutil.rmtree(root)
        self.run("config", *_base_variables(), container)
        full_name = f"docker.io/library/{name}"
        self.run("commit", "--quiet", "--rm", container, full_name)
        return full_name

    def build(self, context: Path, tag: str, base: str) -> None:
        """Build the Dockerfile of a directory on a base image. The format keeps its health check."""
        options = ["--isolation", "chroot", "--format", "docker", "--pull-never", "--quiet"]
        options += ["--build-arg", f"PYTHON_IMAGE={base}"]
        self.run("build", *options, "--tag", tag, str(context))

    def container(self, image: str, *hosts: str) -> Container:
        """Create a working container, in which these names are this machine."""
        names = [f"--add-host={name}:127.0.0.1" for name in hosts]
        name = self.run("from", "--pull-never", *names, image).strip()
        inspected = json.loads(self.run("inspect", "--type", "container", name))
        return Container(buildah=self, name=name, config=inspected["Docker"]["config"])


def _base_variables() -> list[str]:
    variables = {
        "PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
        "PIP_CERT": str(_CERTIFICATES),
        "SSL_CERT_FILE": str(_CERTIFICATES),
    }
    variables |= {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    return [f"--env={name}={value}" for name, value in variables.items()]


def _run(command: Sequence[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_BUILD_SECONDS)
    assert done.returncode == 0, f"{command[0]}: {done.stderr[-3000:]}"
    return done.stdout
