"""Checks of poolers, replicas and cells for `byok doctor`."""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Literal

from app.composition.database_access import (
    ANOTHER_SERVER,
    POOLED_DIRECT_URL,
    REPORTS_NOT_A_MEMBER,
    ROLE_WITHOUT_LOGIN,
    UNKNOWN_POOLER,
    bypasses_security,
)
from app.database.cells.directory import HAVE_BEEN_ADDED, NAMES
from app.database.cells.nodes import Node, cell_addresses, missing_of_login, read_nodes, unfit_logs
from app.database.connections import (
    check_session_settings,
    describe_failure,
    is_pooled,
    read_only_transaction,
    shares_sessions,
)
from app.database.engine import DatabaseLogin
from app.database.preflight import DATABASE_ERRORS, compare_replica, is_service_member, rls_bypasses

_NOT_ENGLISH = (
    "the login's lc_messages is not English, so some requests whose worker is lost get a 500 in place of a 503;"
    " as a superuser, run ALTER ROLE ... SET lc_messages = 'C' for it"
)


@dataclass(frozen=True, slots=True)
class ScalingResult:
    """What is right or wrong with a pooler, a replica or the cells."""

    level: Literal["ok", "warn", "fail"]
    subject: str
    text: str


async def check_poolers(login: DatabaseLogin) -> AsyncIterator[ScalingResult]:
    """Whether a pooler in transaction mode is between, and whether the settings know."""
    if login.direct_url is not None and await shares_sessions(login.direct_url):
        yield ScalingResult("fail", "pooler", f"BYOK_DATABASE__DIRECT_URL {POOLED_DIRECT_URL}")
    if is_pooled(login.url):
        yield ScalingResult("ok", "pooler", "BYOK_DATABASE__URL says that one in transaction mode is between")
    elif await shares_sessions(login.url):
        yield ScalingResult("fail", "pooler", f"BYOK_DATABASE__URL: {UNKNOWN_POOLER}")
    else:
        await check_session_settings(login.url)


async def check_replica(
    login: DatabaseLogin, reports: DatabaseLogin, *, is_production: bool
) -> ScalingResult:
    """Whether the server for reports can be used, and how far it is behind."""
    variable = "BYOK_DATABASE__REPORTS_URL"
    try:
        facts = await compare_replica(login.session_url, reports.url)
        bypasses = await rls_bypasses(reports.url) if is_production else ()
        is_member = await is_service_member(reports.url)
    except DATABASE_ERRORS as error:
        text = f"{variable}: {describe_failure(error)}; until then, reports are read from the primary"
        return ScalingResult("fail", "reports", text)
    problems = {
        ANOTHER_SERVER: not facts.is_same_cluster,
        REPORTS_NOT_A_MEMBER: not is_member,
        bypasses_security(bypasses): bool(bypasses),
    }
    problem = next((text for text, applies in problems.items() if applies), None)
    if problem is not None:
        return ScalingResult("fail", "reports", f"{variable}: {problem}")
    if not facts.is_replica:
        return ScalingResult(
            "warn", "reports", f"{variable} is the primary; set it to a replica, or remove it"
        )
    return ScalingResult(
        "ok", "reports", f"a replica, {facts.bytes_behind} bytes of the write-ahead log behind the primary"
    )


async def check_cells(login: DatabaseLogin) -> ScalingResult:
    """How many cells there are, and on Citus its version, whether all nodes are active, and the language of messages."""
    async with read_only_transaction(login.url) as connection:
        names = await connection.fetch(NAMES) if await connection.fetchval(HAVE_BEEN_ADDED) else []
        cells = max(1, len(names))
        version = await connection.fetchval("SELECT extversion FROM pg_extension WHERE extname = 'citus'")
        nodes = [] if version is None else await connection.fetch("SELECT isactive FROM pg_dist_node")
        language = await connection.fetchval("SHOW lc_messages")
    text = "one cell" if cells == 1 else f"{cells} cells"
    if version is None:
        return ScalingResult("ok", "cells", text)
    active = sum(node["isactive"] for node in nodes)
    text += f" on Citus {version}, {active} of {len(nodes)} nodes active"
    if not is_english(language):
        text += f"; {_NOT_ENGLISH}"
        return ScalingResult("warn", "cells", text)
    return ScalingResult("ok" if active == len(nodes) else "warn", "cells", text)


async def check_nodes(login: DatabaseLogin) -> AsyncIterator[ScalingResult]:
    """The nodes of Citus with their versions and cells, and what the login lacks to use cells on workers."""
    async with read_only_transaction(login.session_url) as connection:
        nodes = await read_nodes(connection)
        if not nodes or not await connection.fetchval(HAVE_BEEN_ADDED):
            return
        addresses = await cell_addresses(connection)
        for node in nodes:
            yield _node(node, coordinator=nodes[0], addresses=addresses)
        for sentence in unfit_logs(nodes):
            yield ScalingResult("warn", "citus", sentence)
        if any(addresses.values()):
            for sentence in await missing_of_login(connection):
                yield ScalingResult("fail", "citus", sentence)
            if login.set_role:
                yield ScalingResult("fail", "citus", ROLE_WITHOUT_LOGIN)


def _node(node: Node, *, coordinator: Node, addresses: Mapping[str, str | None]) -> ScalingResult:
    here = node.address if not node.is_coordinator else None
    cells = ", ".join(name for name, address in addresses.items() if address == here) or "none"
    text = f"{node.name}: {node.versions}; cells: {cells}"
    if node.versions == coordinator.versions and node.description is not None:
        return ScalingResult("ok", "node", text)
    remedy = "run the same versions on all nodes" if node.description else "see docs/explanation/scaling.md"
    return ScalingResult("warn", "node", f"{text}; {remedy}")


def is_english(locale: str) -> bool:
    """Whether messages of PostgreSQL are English with this value of `lc_messages`."""
    language = locale.partition(".")[0].partition("_")[0]
    return language in {"C", "POSIX", "en"}
