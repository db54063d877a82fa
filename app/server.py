"""Runs the application under uvicorn with the jobs beside it, and stops both in order."""

import asyncio
import errno
import gc
import signal
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, nullcontext
from typing import Any

import uvicorn

from app.api.http_limits import BoundedHttpProtocol
from app.composition.background import run_jobs
from app.composition.bootstrap import DatabaseAccess, open_services
from app.core.services import Services
from app.main import create_app
from app.observability.event_loop_lag import watched_loop
from app.settings.environment import Settings, SettingsRefused

# Requests under way may take as long as a check does (15 s) and then some.
DRAIN_SECONDS = 20
# Objects made and not yet freed. A page of a list makes a thousand that the next moment frees.
_COLLECT_AFTER = 10_000


class _Server(uvicorn.Server):
    """Tells when it listens."""

    ready: Callable[[], None] = staticmethod(lambda: None)

    async def startup(self, *args: object, **options: object) -> None:
        await super().startup(*args, **options)  # type: ignore[arg-type]  # whatever uvicorn passes
        if self.started:
            _settle()
            self.ready()


def serve_forever(
    settings: Settings, access: DatabaseAccess, *, with_jobs: bool, ready: Callable[[], None]
) -> None:
    """Serve until SIGINT or SIGTERM: requests under way are answered, then everything closes in reverse.

    Raises:
        SettingsRefused: the port is taken, or what was set cannot be used.
    """
    with _listener(settings) as listener:
        _run(_serve(settings, access, listener, with_jobs=with_jobs, ready=ready))


async def _serve(
    settings: Settings,
    access: DatabaseAccess,
    listener: socket.socket,
    *,
    with_jobs: bool,
    ready: Callable[[], None],
) -> None:
    # Opened here rather than in the lifespan: what goes wrong is then ours to tell, in one line.
    async with (
        open_services(settings, access) as services,
        _jobs(settings, services, run=with_jobs),
        watched_loop(),
    ):
        config = uvicorn.Config(
            create_app(nullcontext(services), settings.cors),
            log_config=None,  # ours is in place
            access_log=False,  # it would print paths and queries
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=DRAIN_SECONDS,
            timeout_keep_alive=65,  # longer than usual load balancers', so that they close first
            http=BoundedHttpProtocol,
            ws="none",
        )
        server = _Server(config)
        server.ready = ready
        await server.serve(sockets=[listener])


def _settle() -> None:
    """Take what start-up made out of the garbage collector's sight; it stays until the end anyway.

    The loop stands still while the collector walks over everything that lives: modules, routes and
    statements are hundreds of thousands of objects, and a list of credentials makes enough new ones
    to have them walked over again and again.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_COLLECT_AFTER)


def _run(serving: Coroutine[Any, Any, None]) -> None:
    """On uvloop where there is one."""
    with asyncio.Runner(loop_factory=uvicorn.Config("", log_config=None).get_loop_factory()) as runner:
        runner.run(serving)


@asynccontextmanager
async def _jobs(settings: Settings, services: Services, *, run: bool) -> AsyncIterator[None]:
    if not run:
        yield
        return
    stop = asyncio.Event()
    interval = settings.jobs.interval.total_seconds()
    jobs = asyncio.create_task(run_jobs(services, interval_seconds=interval, stop=stop))
    try:
        yield
    finally:
        stop.set()
        await jobs


def _listener(settings: Settings) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
        listener = socket.create_server((settings.host, settings.port), family=family, backlog=2048)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise SettingsRefused.of(
                "PORT", "the port is taken; stop what listens there, or set another"
            ) from None
        raise SettingsRefused.of("HOST", "cannot listen there; set an address of this machine") from None
    # asyncio sets it only on sockets that name their protocol; without it answers come 40 ms late.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    listener.setblocking(False)  # noqa: FBT003  # the standard library's signature
    return listener


def wait_for_signal() -> asyncio.Event:
    """An event that SIGINT and SIGTERM set."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop
