"""The baseline for reads: the same rows from one SELECT, without any checks.

python -m bench.bare --port N --database URL    FastAPI with an asyncpg pool; returns dictionaries
"""

import argparse
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import asyncpg
import uvicorn
from fastapi import FastAPI

# The columns of the service's own response.
SELECT = """
    SELECT c.organization_id, c.id, c.provider, c.label, c.state, v.key_hint, v.fingerprint, v.key_version,
           v.base_url, v.messages_url, v.auth_style, v.workspace_id, v.probe_model,
           v.definite_status, v.definite_reason, v.definite_checked_at, v.definite_request_id,
           v.latest_status, v.latest_reason, v.latest_checked_at,
           c.created_at, c.created_by, c.updated_at, c.rotated_at, c.last_used_at
    FROM provider_credential c
    JOIN credential_version v
      ON v.organization_id = c.organization_id AND v.credential_id = c.id AND v.key_version = c.current_key_version
    WHERE c.organization_id = $1
"""


def bare_app(database: str, *, pool_size: int) -> FastAPI:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with asyncpg.create_pool(database, min_size=pool_size, max_size=pool_size) as pool:
            app.state.pool = pool
            yield

    app = FastAPI(lifespan=lifespan)

    @app.get("/organizations/{organization_id}/credentials/{credential_id}")
    async def get_credential(organization_id: str, credential_id: UUID) -> dict[str, Any]:
        row = await app.state.pool.fetchrow(f"{SELECT} AND c.id = $2", organization_id, credential_id)
        return dict(row)

    @app.get("/organizations/{organization_id}/credentials")
    async def list_credentials(organization_id: str, limit: int = 20) -> dict[str, Any]:
        rows = await app.state.pool.fetch(f"{SELECT} ORDER BY c.id DESC LIMIT $2", organization_id, limit)
        return {"data": [dict(row) for row in rows]}

    return app


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--database", required=True)
    parser.add_argument("--pool-size", type=int, default=10)
    options = parser.parse_args()
    uvicorn.run(
        bare_app(options.database, pool_size=options.pool_size),
        port=options.port,
        loop="uvloop",
        http="httptools",
        log_config=None,
        access_log=False,
    )
