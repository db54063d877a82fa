"""Commands reject invalid settings: one line that names the variable, exit code 2, no traceback."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from app.cli import main
from tests.support.processes.commands import CommandResult, byok, private_directory

ROOT = Path(__file__).parents[2]
SECRET = "hunter2"
# Each start takes a second of CPU time, and must end within the timeout of a command.
STARTS_AT_ONCE = 3

# Settings → the variables that the lines must name, one per line.
REFUSED: dict[str, tuple[dict[str, str], list[str]]] = {
    "a port that is not a number": ({"PORT": f"80{SECRET}"}, ["BYOK_PORT"]),
    "a group that is not JSON": (
        {"DATABASE": f"postgresql://nobody:{SECRET}@127.0.0.1:1/byok"},
        ["BYOK_DATABASE"],
    ),
    "a database that does not respond": (
        {"DATABASE__URL": f"postgresql://nobody:{SECRET}@127.0.0.1:1/byok"},
        ["BYOK_DATABASE__URL"],
    ),
    "an unencoded password": (
        {"DATABASE__URL": f"postgresql://byok_app:Str@ng:{SECRET}@db.internal/byok"},
        ["BYOK_DATABASE__URL"],
    ),
    "an unencoded password of the owner": (
        {
            "DATABASE__URL": "postgresql://byok_app@127.0.0.1:1/byok",
            "DATABASE__MIGRATION_URL": f"postgresql://owner:Str@ng/{SECRET}@db.internal/byok",
        },
        ["BYOK_DATABASE__MIGRATION_URL"],
    ),
    "a host that cannot be resolved": (
        {"DATABASE__URL": f"postgresql://byok:p@{SECRET}.invalid/byok"},
        ["BYOK_DATABASE__URL"],
    ),
    "an owner's server that does not respond": (
        {
            "DATABASE__URL": f"postgresql://byok_app:{SECRET}@127.0.0.1:1/byok",
            "DATABASE__MIGRATION_URL": f"postgresql://owner:{SECRET}@127.0.0.1:1/byok",
        },
        ["BYOK_DATABASE__MIGRATION_URL"],
    ),
    "certificates that the driver does not find": (
        {"DATABASE__URL": f"postgresql://byok:{SECRET}@127.0.0.1:1/byok?sslmode=verify-full"},
        ["BYOK_DATABASE__URL"],
    ),
    "production without settings": (
        {"ENVIRONMENT": "production", "DEBUG": "true"},
        ["BYOK_DEBUG", "BYOK_AUTH__JWKS_URL", "BYOK_DATABASE__URL", "BYOK_SECRET_STORE__ALLOW_EMBEDDED"],
    ),
}


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    with private_directory() as directory:
        yield directory


@pytest.fixture(scope="module")
async def ended(home: Path) -> dict[str, CommandResult]:
    """Run all rejected starts, some of them at the same time."""
    slots = asyncio.Semaphore(STARTS_AT_ONCE)

    async def start(settings: dict[str, str]) -> CommandResult:
        async with slots:
            return await byok("serve", cwd=home, **settings)

    found = await asyncio.gather(*(start(settings) for settings, _ in REFUSED.values()))
    return dict(zip(REFUSED, found, strict=True))


class TestServe:
    @pytest.mark.parametrize("name", REFUSED)
    def test_prints_one_line_for_each_variable(self, name: str, ended: dict[str, CommandResult]) -> None:
        lines = ended[name].stderr.removeprefix("Error: ").splitlines()

        assert ended[name].code == 2
        assert [line.partition(":")[0] for line in lines] == REFUSED[name][1]
        assert ended[name].stdout == ""

    @pytest.mark.parametrize("name", REFUSED)
    def test_does_not_print_the_value(self, name: str, ended: dict[str, CommandResult]) -> None:
        assert SECRET not in ended[name].stderr

    @pytest.mark.parametrize("name", REFUSED)
    def test_prints_no_traceback_and_no_class_of_an_error(
        self, name: str, ended: dict[str, CommandResult]
    ) -> None:
        assert "Traceback" not in ended[name].stderr
        assert "Error)" not in ended[name].stderr
        assert "gaierror" not in ended[name].stderr

    @pytest.mark.usefixtures("ended")
    def test_creates_no_files(self, home: Path) -> None:
        assert list(home.iterdir()) == []

    async def test_rejects_a_data_directory_that_cannot_be_created(self, home: Path, tmp_path: Path) -> None:
        (tmp_path / "file").touch()

        refused = await byok("serve", cwd=home, DATA_DIR=str(tmp_path / "file" / "data"))

        assert refused.code == 2
        assert refused.stderr.startswith("Error: BYOK_DATA_DIR: ")


class TestDoctor:
    async def test_names_the_wrong_variable(self, home: Path) -> None:
        refused = await byok("doctor", cwd=home, PORT="0")

        assert refused.code == 1
        assert refused.stdout.startswith("fail  settings: BYOK_PORT: ")

    async def test_fails_for_tokens_that_can_never_be_accepted(self) -> None:
        with private_directory() as directory:
            found = await byok(
                "doctor",
                cwd=directory,
                AUTH__ISSUER=f"http://127.0.0.1:1/{SECRET}",
                AUTH__JWKS_URL=f"http://127.0.0.1:1/{SECRET}/keys",
                PROVIDER__DEFAULT_BASE_URL=f"http://127.0.0.1:1/{SECRET}",
            )

        lines = found.stdout.splitlines()
        assert any(line.startswith("fail  tokens: no token can be accepted") for line in lines)
        assert any(line.startswith("warn  provider: ") for line in lines)
        assert found.code & 8
        assert not found.code & 16
        assert SECRET not in found.stdout + found.stderr


class TestOpenApiCheck:
    def test_accepts_the_document_in_the_repository(self) -> None:
        checked = CliRunner().invoke(main, ["openapi", "--check", str(ROOT / "openapi" / "openapi.json")])

        assert (checked.exit_code, checked.output) == (0, "")

    def test_reports_an_outdated_document(self, tmp_path: Path) -> None:
        outdated = tmp_path / "openapi.json"
        outdated.write_text("{}")

        checked = CliRunner().invoke(main, ["openapi", "--check", str(outdated)])

        assert checked.exit_code == 1
        assert "out of date" in checked.stderr
