"""The image is built from the Dockerfile and started, and the commands of compose.yaml run in it one by one.

Everything is in a network namespace of the test, so that names and ports are those of compose.yaml.
"""

import asyncio
import os
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest

from tests.support.database.bare_servers import bare_server, installations
from tests.support.deployment.buildah import Buildah, Container, missing_tools
from tests.support.deployment.compose import ComposeService, compose_services
from tests.support.documentation import ROOT
from tests.support.fault_injection import ALL_CRASHES
from tests.support.network.namespaces import Namespace, internet
from tests.support.processes.commands import CommandResult, private_directory
from tests.support.processes.service import until
from tests.support.provider.fake_anthropic import make_key

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not ALL_CRASHES, reason="builds an image, which takes minutes: make test-exhaustive"),
    pytest.mark.skipif(bool(missing_tools()), reason=f"the image needs {', '.join(missing_tools())}"),
    pytest.mark.skipif(shutil.which("bao") is None, reason="compose.yaml needs OpenBao: put bao on PATH"),
]

USER = 10001
PASSWORDS = {"POSTGRES_PASSWORD": "root", "OWNER_PASSWORD": "owner", "SERVICE_PASSWORD": "service"}
VAULT = {
    "BYOK_VAULT__ADDRESS": "https://openbao:8200",
    "BYOK_VAULT__CA_FILE": "/openbao/file/vault-ca.pem",
    "BYOK_VAULT__TOKEN": "root",
    "BYOK_VAULT__KV_MOUNT": "keys",
}
# The layers of the image may need more room than there is in memory, where a run has its temporary files.
ON_DISK = Path("/var/tmp")  # noqa: S108  # the test creates a directory of its own there
COMMAND_SECONDS = START_SECONDS = 120


@pytest.fixture(scope="module")
def buildah() -> Iterator[Buildah]:
    with private_directory(ON_DISK) as directory:
        yield Buildah(directory=directory)


@pytest.fixture(scope="module")
def base(buildah: Buildah) -> str:
    return buildah.make_base(ROOT / "Dockerfile")


@pytest.fixture(scope="module")
def container(buildah: Buildah, base: str) -> Container:
    buildah.build(ROOT, "byok", base)
    return buildah.container("localhost/byok", "postgres", "openbao")


@dataclass(frozen=True, kw_only=True)
class Machine:
    """A machine on which the services of compose.yaml run in containers, with the files of their volumes."""

    namespace: Namespace
    container: Container
    volumes: Path

    def command(self, service: ComposeService, *command: str) -> list[str]:
        """The program and arguments that start a container of a service, or run a command in it."""
        return self.container.command(
            command or self.container.started_with(*service.command),
            environment=service.environment(PASSWORDS | VAULT),
            volumes={self.volumes / name: target for name, target in service.volumes.items()},
        )

    async def run(self, command: list[str]) -> CommandResult:
        done = await self.namespace.run(
            subprocess.run, command, capture_output=True, text=True, check=False, timeout=COMMAND_SECONDS
        )
        return CommandResult(code=done.returncode, stdout=done.stdout, stderr=done.stderr)

    @asynccontextmanager
    async def started(self, service: ComposeService) -> AsyncIterator[psutil.Process]:
        """Start the container of a service. Yields the process of `byok` when it runs."""
        log = self.volumes / f"{'-'.join(service.command) or 'serve'}.log"
        with log.open("wb") as output:
            process = await self.namespace.run(
                subprocess.Popen, self.command(service), stdout=output, stderr=output
            )
        try:
            running = psutil.Process(process.pid)

            def found() -> list[psutil.Process]:
                assert process.poll() is None, log.read_text()[-2000:]
                return [child for child in running.children(recursive=True) if _is_service(child)]

            await until(lambda: bool(found()), "the container starts", seconds=START_SECONDS)
            yield found()[0]
        except BaseException as error:
            error.add_note(f"output of the container:\n{log.read_text()[-2000:]}")
            raise
        finally:
            for left in [*running.children(recursive=True), running]:
                left.kill()
            await asyncio.to_thread(process.wait)


def _is_service(process: psutil.Process) -> bool:
    try:
        return process.uids().effective == USER and "/srv/byok/bin/byok" in process.cmdline()
    except psutil.Error:
        return False


@pytest.fixture(scope="module")
async def machine(container: Container) -> AsyncIterator[Machine]:
    """PostgreSQL and OpenBao run as compose.yaml starts them, at the names and ports that it uses."""
    async with internet() as network:
        with ExitStack() as stack:
            directory = stack.enter_context(private_directory())
            for name, owner in (("byok", USER), ("openbao", 0)):
                (directory / name).mkdir()
                os.chown(directory / name, owner, owner)
            programs = next(iter(installations().values()))
            server = await network.near.run(stack.enter_context, bare_server(programs, 5432))
            await network.near.run(server.run_roles_script, server.superuser, **PASSWORDS)
            openbao = await network.near.run(_start_openbao, directory / "openbao")
            stack.callback(openbao.wait)
            stack.callback(openbao.kill)
            certificate = directory / "openbao" / "vault-ca.pem"
            await until(certificate.exists, "OpenBao has its certificate")
            yield Machine(namespace=network.near, container=container, volumes=directory)
            await network.near.run(stack.close)


def _start_openbao(directory: Path) -> "subprocess.Popen[bytes]":
    """The command of compose.yaml, on a machine with its name, which is in the certificate."""
    command = [
        part.replace("/openbao/file", str(directory)) for part in compose_services()["openbao"].command
    ]
    script = ["unshare", "--uts", "sh", "-c", 'hostname openbao && exec bao "$@"', "bao", *command]
    return subprocess.Popen(script, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def test_base_has_the_python_that_its_name_says(buildah: Buildah, base: str) -> None:
    command = buildah.container(base).command(["python", "--version"], environment={})

    shown = subprocess.run(command, capture_output=True, text=True, check=True)

    assert shown.stdout.split()[1].startswith(base.partition(":")[2].partition("-")[0])


async def test_refuses_to_start_without_settings(machine: Machine) -> None:
    refused = await machine.run(machine.container.command(machine.container.started_with(), environment={}))

    assert refused.code == 2
    assert "BYOK_DATABASE__URL: production requires a PostgreSQL server" in refused.stderr
    assert "BYOK_AUTH__JWKS_URL: production requires an external issuer" in refused.stderr
    assert "BYOK_SECRET_STORE__ALLOW_EMBEDDED: production uses" in refused.stderr


async def test_holds_only_what_runs(machine: Machine) -> None:
    listed = await machine.run(machine.container.command(["ls", "/srv/byok/bin"], environment={}))

    assert "byok" in listed.stdout.split()
    assert not {"uv", "pip", "pytest", "hatchling"}.intersection(listed.stdout.split())


async def test_commands_of_compose_run_one_by_one(machine: Machine) -> None:
    services = compose_services()
    migrated = await machine.run(machine.command(services["migrate"]))
    assert migrated.code == 0, migrated.stderr
    set_up = await machine.run(machine.command(services["vault-setup"]))
    assert set_up.code == 0, set_up.stderr
    assert "mounted kv at keys/" in set_up.stdout

    async with machine.started(services["service"]) as service:
        check = machine.command(services["service"], *machine.container.health_check)

        async def is_healthy() -> bool:
            return (await machine.run(check)).code == 0

        await until(is_healthy, "the health check succeeds", seconds=START_SECONDS)
        saved = await _save_a_key(machine, services["service"])
        async with machine.started(services["worker"]) as worker:
            assert worker.uids().real == USER
        service.send_signal(signal.SIGTERM)
        await until(lambda: not service.is_running(), "SIGTERM stops the service")

    assert saved.status_code == 201, saved.text
    assert (await machine.run(check)).code != 0


async def _save_a_key(machine: Machine, service: ComposeService) -> httpx.Response:
    """As the first lines of compose.yaml show."""
    arguments = ("token", "--role", "billing-admin", "--organization", "org_acme")
    token = await machine.run(machine.command(service, *machine.container.started_with(*arguments)))
    assert token.code == 0, token.stderr
    return await machine.namespace.run(
        httpx.post,
        "http://127.0.0.1:8000/v1/organizations/org_acme/provider-credentials",
        json={"label": "Acme", "api_key": make_key()},
        headers={"Authorization": f"Bearer {token.stdout.strip()}"},
        timeout=COMMAND_SECONDS,
        trust_env=False,
    )
