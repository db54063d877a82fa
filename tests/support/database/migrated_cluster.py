"""A data directory with a migrated database, which a test process creates once and copies for each server that it starts.

To create the files and to migrate takes longer than the rest of a service's first start.
"""

import asyncio
import atexit
import shutil
import subprocess
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from app.database import migrations
from app.database.embedded.server import embedded_postgres

# Its data may be lost in a power failure, but not when processes are killed.
_CHEAP = "fsync = off\n"

_lock = threading.Lock()
_created: list[Path] = []


def copy_migrated_cluster(data_dir: Path) -> None:
    """Put a cluster with a migrated database at `data_dir/postgres`. Call it in a thread that runs no event loop."""
    data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    subprocess.run(["/bin/cp", "-a", str(_template() / "postgres"), str(data_dir)], check=True)


def _template() -> Path:
    with _lock:
        if not _created:
            home = Path(tempfile.mkdtemp(prefix="byok-cluster-"))
            atexit.register(shutil.rmtree, home, ignore_errors=True)
            home.chmod(0o711)
            # In another thread, because the main one may run an event loop.
            with ThreadPoolExecutor(1) as executor:
                executor.submit(_create, home / "data").result()
            _created.append(home / "data")
        return _created[0]


def _create(data_dir: Path) -> None:
    with embedded_postgres(data_dir) as logins:
        asyncio.run(migrations.migrate(logins.owner))
    with (data_dir / "postgres" / "postgresql.conf").open("a") as settings:
        settings.write(_CHEAP)
