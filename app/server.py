"""Runs the application under uvicorn and the background jobs, together or apart, and stops both in order."""

import asyncio
import errno
import gc
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, nullcontext
from typing import Any

import uvicorn

from app.api.connections import OpenConnections, UnreadResponses
from app.composition.background import run_jobs
from app.composition.billing_page import billing_page
from app.composition.bootstrap import open_services
from app.composition.database_access import DatabaseAccess
from app.core.process_limits import forbid_core_dumps, raise_descriptor_limit
from app.core.services import Services
from app.egress.streaming.connections import keep_alive
from app.observability.descriptors import watch_descriptors
from app.observability.event_loop_lag import measure_event_loop_lag
from app.relay.service import Relay
from app.settings.environment import SettingsRefused
from app.settings.settings import Settings

# A request in progress may wait for a probe (15 s at most); the rest is a margin.
DRAIN_SECONDS = 20
# How often a drain looks for a second signal, which ends it at once.
_FORCED_EXIT_SECONDS = 0.2
# How long connections without a request stay open after the listener has closed.
_REUSE_SECONDS = 0.5
_REUSE_STEP_SECONDS = 0.02
# Descriptors that clients cannot use: database, providers, webhook receivers, files. On a process with few, half of them.
_OWN_DESCRIPTORS = 256
# More connections than one process can serve, however many descriptors it may open.
_MOST_CONNECTIONS = 10_000
# Responses that their clients have not read yet. A large report has 10 MiB.
_UNREAD_BYTES = 128 * 1024 * 1024
# Allocated objects, minus freed ones, after which a garbage collection starts. One page of a list allocates about a
# thousand objects that are freed soon.
_COLLECT_AFTER = 10_000


class _Server(uvicorn.Server):
    """Calls `ready` as soon as it listens, and drains the relay before it stops listening."""

    ready: Callable[[], None] = staticmethod(lambda: None)
    relay: Relay | None = None

    async def startup(self, *args: object, **options: object) -> None:
        await super().startup(*args, **options)  # type: ignore[arg-type]  # passes on the arguments of uvicorn
        if self.started:
            _freeze_startup_objects()
            self.ready()

    async def shutdown(self, *args: object, **options: object) -> None:
        """End the relayed calls first: uvicorn cancels what still runs at its time-out without notice to the client."""
        if self.relay is not None:
            draining = asyncio.create_task(self.relay.drain())
            while not draining.done() and not self.force_exit:
                await asyncio.wait({draining}, timeout=_FORCED_EXIT_SECONDS)
            draining.cancel()
        await self._end_reuse()
        await super().shutdown(*args, **options)  # type: ignore[arg-type]  # passes on the arguments of uvicorn

    async def _end_reuse(self) -> None:
        """Let clients close their connections, before uvicorn closes those without a request.

        A proxy that sends a request while the connection closes cannot know whether it was received, and responds with 502.
        New connections are refused meanwhile, so that it takes another instance for them.
        """
        from app.api.http_limits import BoundedHttpProtocol  # noqa: PLC0415  # a worker does not need the API

        for server in self.servers:
            server.close()
        for connection in list(self.server_state.connections):
            if isinstance(connection, BoundedHttpProtocol):
                connection.end_reuse()
        deadline = time.monotonic() + _REUSE_SECONDS
        while self.server_state.connections and not self.force_exit and time.monotonic() < deadline:  # noqa: ASYNC110  # uvicorn has no event for it
            await asyncio.sleep(_REUSE_STEP_SECONDS)


def serve_forever(
    settings: Settings, access: DatabaseAccess, *, with_jobs: bool, ready: Callable[[], None]
) -> None:
    """Serve until SIGINT or SIGTERM. Then finish the requests in progress and close all resources in reverse order.

    Args:
        settings: the settings.
        access: the database logins.
        with_jobs: whether to run the background jobs in this process too.
        ready: called once the server listens.

    Raises:
        SettingsRefused: the port is in use, or the settings cannot be used.
    """
    connections = OpenConnections(_connection_limit(settings), clock=time.monotonic)
    with _listener(settings.host, settings.port, "PORT") as listener:
        _run(_serve(settings, access, listener, connections, with_jobs=with_jobs, ready=ready))


async def _serve(
    settings: Settings,
    access: DatabaseAccess,
    listener: socket.socket,
    connections: OpenConnections,
    *,
    with_jobs: bool,
    ready: Callable[[], None],
) -> None:
    from app.api.http_limits import BoundedHttpProtocol  # noqa: PLC0415  # a worker does not need the API
    from app.main import create_app  # noqa: PLC0415  # for the same reason

    class Protocol(BoundedHttpProtocol):
        open_connections = connections
        unread_responses = UnreadResponses(_UNREAD_BYTES)

    # Opened here and not in the lifespan, so that the command can report a failure in one line.
    async with (
        open_services(settings, access) as services,
        _jobs(settings, services, run=with_jobs),
        measure_event_loop_lag(),
        watch_descriptors(),
    ):
        config = uvicorn.Config(
            create_app(nullcontext(services), settings.cors, billing_page(settings)),
            log_config=None,  # logging is configured already
            access_log=False,  # it would log paths and queries
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=DRAIN_SECONDS,
            timeout_keep_alive=int(settings.process.keep_alive.total_seconds()),
            http=Protocol,
            ws="none",
        )
        server = _Server(config)
        server.ready = ready
        server.relay = services[Relay]
        await server.serve(sockets=[listener])


def protect_process(settings: Settings) -> None:
    """Forbid core dumps unless a setting allows them, and raise the limit of open descriptors.

    Call it before the embedded PostgreSQL starts, which inherits both limits.
    """
    if not settings.process.allow_core_dumps:
        forbid_core_dumps()
    raise_descriptor_limit()


def _connection_limit(settings: Settings) -> int:
    if settings.process.connections is not None:
        return settings.process.connections
    descriptors = raise_descriptor_limit()
    return max(1, min(_MOST_CONNECTIONS, descriptors - min(_OWN_DESCRIPTORS, descriptors // 2)))


def _freeze_startup_objects() -> None:
    """Exclude the objects created during start-up from garbage collection; they live until the process ends.

    The commands switch collection off while they import, and this switches it on. It does not collect first: that takes
    a tenth of a start's time, and of some hundred thousand objects it frees about one thousand.

    A collection blocks the event loop while it visits all objects. Modules, routes and statements are hundreds of
    thousands of objects, and one list of credentials allocates enough objects to start another collection.
    """
    gc.freeze()
    gc.enable()
    gc.set_threshold(_COLLECT_AFTER)


def _run(serving: Coroutine[Any, Any, None]) -> None:
    """Run on uvloop if it is installed."""
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


def _listener(host: str, port: int, variable: str) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise SettingsRefused.of(
                variable, "the port is in use; stop the process that listens on it, or set another port"
            ) from None
        if error.errno == errno.EACCES:
            raise SettingsRefused.of(
                variable, "this user may not listen on the port; set a port from 1024 on"
            ) from None
        raise SettingsRefused.of(
            "HOST", "cannot listen on this address; set an address of this machine"
        ) from None
    # asyncio sets this option only on sockets that name their protocol. Without it, responses arrive 40 ms late.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    # Accepted connections inherit it. A proxy may drop a connection that is silent while a model thinks.
    keep_alive(listener)
    listener.setblocking(False)  # noqa: FBT003  # the standard library's signature
    return listener


def work_forever(settings: Settings, access: DatabaseAccess, *, ready: Callable[[], None]) -> None:
    """Run the background jobs until SIGINT or SIGTERM, and serve `/metrics` and `/livez` if a port is set for them.

    Args:
        settings: the settings.
        access: the database logins.
        ready: called once the jobs run.

    Raises:
        SettingsRefused: the port is in use, or the settings cannot be used.
    """
    with ExitStack() as sockets:
        listener = None
        if settings.metrics_port is not None:
            listener = sockets.enter_context(_listener(settings.host, settings.metrics_port, "METRICS_PORT"))
        _run(_work(settings, access, listener, ready=ready))


async def _work(
    settings: Settings, access: DatabaseAccess, listener: socket.socket | None, *, ready: Callable[[], None]
) -> None:
    stop = wait_for_signal()
    async with open_services(settings, access) as services, _metrics(listener), measure_event_loop_lag():
        _freeze_startup_objects()
        ready()
        await run_jobs(services, interval_seconds=settings.jobs.interval.total_seconds(), stop=stop)


class _MetricsServer(uvicorn.Server):
    """A server that another part of the process stops."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@asynccontextmanager
async def _metrics(listener: socket.socket | None) -> AsyncIterator[None]:
    if listener is None:
        yield
        return
    from app.api.http_limits import BoundedHttpProtocol  # noqa: PLC0415  # only needed with a port
    from app.observability.metrics_app import metrics_app  # noqa: PLC0415  # for the same reason

    config = uvicorn.Config(
        metrics_app,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        lifespan="off",
        timeout_graceful_shutdown=1,
        http=BoundedHttpProtocol,
        ws="none",
    )
    server = _MetricsServer(config)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield
    finally:
        server.should_exit = True
        await serving


def wait_for_signal() -> asyncio.Event:
    """Return an event that SIGINT or SIGTERM sets."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop
