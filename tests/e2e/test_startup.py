"""What the commands refuse, and how: one line that names the variable, exit code 2, no traceback."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from app.cli import main
from tests.e2e.commands import Ended, byok, private_directory

ROOT = Path(__file__).parents[2]
SECRET = "hunter2"

# Settings → the variables that the lines must name, one each.
REFUSED: dict[str, tuple[dict[str, str], list[str]]] = {
    "a port that is no number": ({"PORT": f"80{SECRET}"}, ["BYOK_PORT"]),
    "a group that is no JSON": (
        {"DATABASE": f"postgresql://nobody:{SECRET}@127.0.0.1:1/byok"},
        ["BYOK_DATABASE"],
    ),
    "a database that does not answer": (
        {"DATABASE__URL": f"postgresql://nobody:{SECRET}@127.0.0.1:1/byok"},
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
async def ended(home: Path) -> dict[str, Ended]:
    """Each refused start, side by side."""
    starts = {name: byok("serve", cwd=home, **settings) for name, (settings, _) in REFUSED.items()}
    return dict(zip(starts, await asyncio.gather(*starts.values()), strict=True))


class TestServe:
    @pytest.mark.parametrize("name", REFUSED)
    def test_refuses_with_one_line_for_each_variable(self, name: str, ended: dict[str, Ended]) -> None:
        lines = ended[name].stderr.removeprefix("Error: ").splitlines()

        assert ended[name].code == 2
        assert [line.partition(":")[0] for line in lines] == REFUSED[name][1]
        assert ended[name].stdout == ""

    @pytest.mark.parametrize("name", REFUSED)
    def test_says_nothing_of_the_value(self, name: str, ended: dict[str, Ended]) -> None:
        assert SECRET not in ended[name].stderr

    @pytest.mark.usefixtures("ended")
    def test_leaves_nothing_behind(self, home: Path) -> None:
        assert list(home.iterdir()) == []

    async def test_refuses_a_data_directory_that_cannot_be_made(self, home: Path, tmp_path: Path) -> None:
        (tmp_path / "file").touch()

        refused = await byok("serve", cwd=home, DATA_DIR=str(tmp_path / "file" / "data"))

        assert refused.code == 2
        assert refused.stderr.startswith("Error: BYOK_DATA_DIR: ")


class TestDoctor:
    async def test_names_the_wrong_variable(self, home: Path) -> None:
        refused = await byok("doctor", cwd=home, PORT="0")

        assert refused.code == 1
        assert refused.stdout.startswith("fail  settings: BYOK_PORT: ")


class TestOpenApi:
    def test_the_document_in_the_repository_is_the_present_one(self) -> None:
        checked = CliRunner().invoke(main, ["openapi", "--check", str(ROOT / "openapi" / "openapi.json")])

        assert (checked.exit_code, checked.output) == (0, "")

    def test_an_outdated_one_is_told(self, tmp_path: Path) -> None:
        outdated = tmp_path / "openapi.json"
        outdated.write_text("{}")

        checked = CliRunner().invoke(main, ["openapi", "--check", str(outdated)])

        assert checked.exit_code == 1
        assert "out of date" in checked.stderr
