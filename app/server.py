"""Runs the application under uvicorn with the jobs beside it, and stops both in order."""

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import uvicorn

from app.bootstrap import DatabaseAccess, open_services
from app.core.settings import Settings
from app.jobs.background import run_jobs
from app.main import create_app
from app.services import Services

# Requests under way may take as long as a check does (15 s) and then some.
DRAIN_SECONDS = 20


class _Server(uvicorn.Server):
    """Tells when it listens."""

    ready: Callable[[], None] = staticmethod(lambda: None)

    async def startup(self, *args: object, **options: object) -> None:
        await super().startup(*args, **options)  # type: ignore[arg-type]  # whatever uvicorn passes
        if self.started:
            self.ready()


def serve_forever(
    settings: Settings, access: DatabaseAccess, *, with_jobs: bool, ready: Callable[[], None]
) -> None:
    """Serve until SIGINT or SIGTERM: requests under way are answered, then everything closes in reverse."""

    @asynccontextmanager
    async def services() -> AsyncIterator[Services]:
        async with open_services(settings, access) as opened:
            stop = asyncio.Event()
            interval = settings.jobs.interval.total_seconds()
            jobs = (
                asyncio.create_task(run_jobs(opened, interval_seconds=interval, stop=stop))
                if with_jobs
                else None
            )
            try:
                yield opened
            finally:
                stop.set()
                if jobs is not None:
                    await jobs

    config = uvicorn.Config(
        create_app(services(), settings.cors),
        host=settings.host,
        port=settings.port,
        log_config=None,  # ours is in place
        access_log=False,  # it would print paths and queries
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=DRAIN_SECONDS,
        timeout_keep_alive=65,  # longer than usual load balancers', so that they close first
        h11_max_incomplete_event_size=16 * 1024,
    )
    server = _Server(config)
    server.ready = ready
    server.run()


def wait_for_signal() -> asyncio.Event:
    """An event that SIGINT and SIGTERM set."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop
