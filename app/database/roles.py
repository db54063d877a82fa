"""Runs `roles.sql` on a server: creates the roles and a database that its owner can migrate.

Operators run the same file with psql (docs/how-to/deploy.md). Here it sets up the embedded PostgreSQL.
"""

import os
import subprocess
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import sqlalchemy as sa

OWNER = "byok_owner"
SERVICE_LOGIN = "byok_app"

_SECONDS = 60.0


class RolesFailed(Exception):
    """psql could not run the script. The message is psql's."""


def run_roles_script(
    psql: Path,
    superuser: sa.URL,
    *,
    database: str,
    owner_password: str = "",
    service_password: str = "",
) -> None:
    """Create what is missing of the roles and the database. May be repeated.

    Args:
        psql: the program, version 14 or newer.
        superuser: URL of a login that may create roles.
        database: the name of the database.
        owner_password: the password of `byok_owner`. Empty: leave it as it is.
        service_password: the password of `byok_app`. Empty: leave it as it is.

    Raises:
        RolesFailed
    """
    passwords = {"OWNER_PASSWORD": owner_password, "SERVICE_PASSWORD": service_password}
    command = (str(psql), "-X", "-q", "-v", "ON_ERROR_STOP=1", "-v", f"database={database}", "-f", "-")
    try:
        subprocess.run(  # noqa: S603  # a fixed program
            command,
            input=(files("app.database") / "roles.sql").read_text(encoding="utf-8"),
            env=_connection_variables(superuser) | passwords,
            check=True,
            capture_output=True,
            text=True,
            timeout=_SECONDS,
        )
    except subprocess.CalledProcessError as error:
        raise RolesFailed(error.stderr.strip()) from None
    except subprocess.TimeoutExpired:
        msg = f"psql did not end within {_SECONDS:.0f} s"
        raise RolesFailed(msg) from None


def without_libpq_variables() -> dict[str, str]:
    """The environment without variables such as PGPORT and PGDATA, which PostgreSQL's programs would follow."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PG")}


def _connection_variables(url: sa.URL) -> dict[str, str]:
    found: Mapping[str, Any] = {
        "PGHOST": url.host or url.query.get("host"),
        "PGPORT": url.port,
        "PGUSER": url.username,
        "PGPASSWORD": url.password,
        "PGSSLMODE": url.query.get("sslmode") or url.query.get("ssl"),
        "PGDATABASE": "postgres",
        "PGCONNECT_TIMEOUT": 10,
    }
    return without_libpq_variables() | {name: str(value) for name, value in found.items() if value}
