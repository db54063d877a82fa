"""The wheel, in a new venv that has only what the lock names: its commands find the files that they need."""

import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.support.database.own_database import DatabaseRoles, create_database, drop_database
from tests.support.documentation import ROOT
from tests.support.processes.commands import byok, private_directory
from tests.support.processes.service import stopped_service
from tests.support.provider.fake_anthropic import Served, make_key
from tests.support.vault import fake as fake_vault
from tests.support.vault.real_server import is_real_vault_available, real_server

UV = Path(sys.prefix) / "bin" / "uv"


def run_uv(*arguments: str | Path) -> None:
    done = subprocess.run([UV, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def venv() -> Iterator[Path]:
    """Built like `python -m build`: the source distribution first, and the wheel from it."""
    with private_directory() as home:
        run_uv("build", "--no-build-isolation", "--python", sys.executable, "--out-dir", home / "dist", ROOT)
        (wheel,) = (home / "dist").glob("*.whl")
        run_uv("venv", "--python", sys.executable, home / "venv")
        install = ("pip", "install", "--python", home / "venv" / "bin" / "python")
        run_uv(*install, "--require-hashes", "--requirement", ROOT / "requirements-production.lock")
        run_uv(*install, "--no-deps", wheel)
        yield home / "venv"


@pytest.fixture(scope="module")
def program(venv: Path) -> tuple[str, ...]:
    return (str(venv / "bin" / "byok"),)


@pytest.fixture(scope="module")
async def roles(database_server: DatabaseRoles) -> AsyncIterator[DatabaseRoles]:
    """A database without tables."""
    database = await create_database(database_server, "byok_wheel")
    yield database
    await drop_database(database)


@pytest.fixture(scope="module")
async def vault() -> AsyncIterator[dict[str, str]]:
    """The settings of a Vault server that is not set up."""
    if not is_real_vault_available():
        async with fake_vault.serve() as served:
            yield {"VAULT__ADDRESS": served.address, "VAULT__TOKEN": fake_vault.ROOT}
        return
    with real_server() as server:
        yield {"VAULT__ADDRESS": server.address, "VAULT__TOKEN": server.token}


def test_runs_without_the_checkout(venv: Path, tmp_path: Path) -> None:
    code = "import app, app.database.migrations as m; print(app.__file__, m.newest_revision())"

    shown = subprocess.run(
        [venv / "bin" / "python", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )

    file, revision = shown.stdout.split()
    assert Path(file).is_relative_to(venv)
    assert revision != "None"


async def test_migrates_sets_up_vault_and_serves(
    program: tuple[str, ...],
    roles: DatabaseRoles,
    vault: dict[str, str],
    provider: Served,
    tmp_path: Path,
) -> None:
    migrated = await byok("migrate", cwd=tmp_path, program=program, **roles.settings)
    assert migrated.code == 0, migrated.stderr
    set_up = await byok("vault-setup", cwd=tmp_path, program=program, **vault)
    assert set_up.code == 0, set_up.stderr
    assert "BYOK_VAULT__ROLES__WRITER__ROLE_ID=" in set_up.stdout

    settings = roles.settings | vault | {"PROVIDER__DEFAULT_BASE_URL": provider.base_url}
    async with stopped_service(**settings) as service:
        service.program = program
        await service.start()
        saved = await service.save("org_acme", make_key())
        page = await service.http.get("/docs")

    assert saved.status_code == 201, saved.text
    assert saved.json()["validation"]["status"] == "valid"
    assert page.status_code == 200
