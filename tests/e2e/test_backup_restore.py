"""docs/how-to/backup-restore.md, step by step: every key and event is back, and new events count.

Restored as the owner too, because managed PostgreSQL has no superuser.
"""

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import sqlalchemy as sa

from tests.support.database.bare_servers import BareServer, bare_server, installations
from tests.support.documentation import ROOT
from tests.support.processes.service import Service, running
from tests.support.provider.fake_anthropic import Served, make_key
from tests.support.requests.usage_events import event

ORGANIZATION = "org_acme"
PATH = f"/v1/organizations/{ORGANIZATION}"
PASSWORDS = {"OWNER_PASSWORD": "owner", "SERVICE_PASSWORD": "service"}
GUIDE = ROOT / "docs" / "how-to" / "backup-restore.md"


def text_of(url: sa.URL) -> str:
    return url.set(drivername="postgresql").render_as_string(hide_password=False)


async def run(url: sa.URL, *statements: str) -> None:
    connection = await asyncpg.connect(text_of(url))
    for statement in statements:
        await connection.execute(statement)
    await connection.close()


def dump(server: BareServer, login: sa.URL, file: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    program = str(server.programs / "pg_dump")
    command = [program, "--format=custom", f"--file={file}", *options, text_of(login)]
    return subprocess.run(command, check=False, capture_output=True, text=True)


def restore(
    server: BareServer, login: sa.URL, file: Path, *options: str
) -> "subprocess.CompletedProcess[str]":
    command = [
        str(server.programs / "pg_restore"),
        "--exit-on-error",
        *options,
        f"--dbname={text_of(login)}",
        str(file),
    ]
    return subprocess.run(command, check=False, capture_output=True, text=True)


def rows_of(server: BareServer, file: Path, table: str) -> str:
    """The rows of a table in a dump."""
    program = str(server.programs / "pg_restore")
    command = [program, "--data-only", f"--table={table}", "--file=-", str(file)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def settings_of(server: BareServer, data_dir: Path, provider: Served) -> dict[str, str]:
    return {
        "DATABASE__URL": text_of(server.login("byok_app", "service")),
        "DATABASE__MIGRATION_URL": text_of(server.login("byok_owner", "owner")),
        "DATA_DIR": str(data_dir),
        "PROVIDER__DEFAULT_BASE_URL": provider.base_url,
    }


async def ingest(service: Service) -> None:
    headers = {"Authorization": f"Bearer {await service.token('service', '*')}"}
    body = {"events": [event(), event()]}
    response = await service.http.post(f"{PATH}/usage-events", json=body, headers=headers)
    assert response.json()["accepted"] == 2, response.text


async def requests_in_report(service: Service) -> int:
    params = {"starting_at": "2026-01-01T00:00:00Z", "bucket_width": "all"}
    report = await service.request("GET", f"{PATH}/usage-report", params=params)
    return int(report.json()["data"][0]["results"][0]["requests"])


@dataclass(frozen=True, kw_only=True)
class Backup:
    """A dump of a database with one credential and two events, and the data directory with its keyset."""

    server: BareServer
    file: Path
    data_dir: Path
    credential: dict[str, Any]
    key: str


@pytest.fixture(scope="module")
def servers() -> Iterator[tuple[BareServer, BareServer]]:
    """The server of the backup, and a new one."""
    programs = next(iter(installations().values()))
    with bare_server(programs) as first, bare_server(programs) as second:
        yield first, second


@pytest.fixture(scope="module")
async def backup(
    servers: tuple[BareServer, BareServer], provider: Served, tmp_path_factory: pytest.TempPathFactory
) -> Backup:
    server, _ = servers
    home = tmp_path_factory.mktemp("backup")
    server.run_roles_script(server.superuser, **PASSWORDS)
    key = make_key()
    async with running(**settings_of(server, home / "data", provider)) as service:
        saved = await service.save(ORGANIZATION, key)
        assert saved.status_code == 201, saved.text
        await ingest(service)
    # The statements of the guide, with a password.
    guide = GUIDE.read_text(encoding="utf-8").partition("```sql\n")[2].partition("```")[0]
    await run(server.superuser, *guide.replace("...", "backup").strip().split("\n"))
    dumped = dump(server, server.login("byok_backup", "backup"), home / "byok.dump")
    assert dumped.returncode == 0, dumped.stderr
    return Backup(
        server=server, file=home / "byok.dump", data_dir=home / "data", credential=saved.json(), key=key
    )


@pytest.mark.parametrize("login", ["byok_owner", "postgres"])
async def test_a_restored_database_has_every_key_and_counts_every_event(
    servers: tuple[BareServer, BareServer], backup: Backup, provider: Served, login: str
) -> None:
    _, server = servers
    await run(server.superuser, "DROP DATABASE IF EXISTS byok WITH (FORCE)")
    server.run_roles_script(server.superuser, **PASSWORDS)
    owner = server.login("byok_owner", "owner")

    if login == "byok_owner":
        restored = restore(server, owner, backup.file, "--no-owner")
    else:
        restored = restore(server, server.superuser.set(database="byok"), backup.file)
    assert restored.returncode == 0, restored.stderr
    await run(owner, "SELECT reset_usage_watermarks()")

    async with running(**settings_of(server, backup.data_dir, provider)) as service:
        credential = f"{PATH}/provider-credentials/{backup.credential['id']}"
        validated = await service.request("POST", f"{credential}/validations")
        before = await requests_in_report(service)
        await ingest(service)
        after = await requests_in_report(service)

    assert (validated.status_code, validated.json()["status"]) == (201, "valid")
    assert len(provider.fake.requests_of(backup.key)) > 1  # the restored key was decrypted and sent
    assert (before, after) == (2, 4)


async def test_a_dump_without_the_privilege_fails_or_is_empty(backup: Backup, tmp_path: Path) -> None:
    """What the guide warns about: with the option, pg_dump succeeds and leaves out most rows."""
    owner = backup.server.login("byok_owner", "owner")

    refused = dump(backup.server, owner, tmp_path / "refused.dump")
    empty = dump(backup.server, owner, tmp_path / "empty.dump", "--enable-row-security")

    assert refused.returncode == 1
    assert "row-level security" in refused.stderr
    assert empty.returncode == 0
    for table in ("provider_credential", "audit_event"):
        assert ORGANIZATION in rows_of(backup.server, backup.file, table)
        assert ORGANIZATION not in rows_of(backup.server, tmp_path / "empty.dump", table)
