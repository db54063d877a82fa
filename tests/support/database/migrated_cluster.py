"""A data directory with a migrated database, which a run creates once and copies for each server that it starts.

To create the files and to migrate takes longer than the rest of a service's first start.
"""

import asyncio
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from app.database import migrations
from app.database.embedded.server import embedded_postgres
from tests.support.shared_directory import create_once

# Its data may be lost in a power failure, but not when processes are killed.
_CHEAP = "fsync = off\n"


def copy_migrated_cluster(data_dir: Path) -> None:
    """Put a cluster with a migrated database at `data_dir/postgres`. Call it in a thread that runs no event loop."""
    data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    template = create_once("migrated-cluster", _create_in_thread) / "data" / "postgres"
    subprocess.run(["/bin/cp", "-a", str(template), str(data_dir)], check=True)


def _create_in_thread(directory: Path) -> None:
    """The main thread may run an event loop."""
    with ThreadPoolExecutor(1) as executor:
        executor.submit(_create, directory / "data").result()


def _create(data_dir: Path) -> None:
    with embedded_postgres(data_dir) as logins:
        asyncio.run(migrations.migrate(logins.owner))
    with (data_dir / "postgres" / "postgresql.conf").open("a") as settings:
        settings.write(_CHEAP)
