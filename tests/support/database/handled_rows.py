"""How many rows a statement handles, by its actual plan: the same on each machine, however slow it is."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from app.database.sessions import Session
from app.database.statements import Query, Row

# What a node has read and does not return, and the blocks that all nodes have read: an index search skips rows unseen.
_REMOVED = ("Rows Removed by Filter", "Rows Removed by Join Filter", "Rows Removed by Index Recheck")
_BLOCKS = ("Shared Hit Blocks", "Shared Read Blocks")
_MODES = {
    "auto": ("force_custom_plan", "force_generic_plan"),  # the first five times, and perhaps later
    "force_custom_plan": ("force_custom_plan",),
    "force_generic_plan": ("force_generic_plan",),
}


class ExplainingSession(Session):
    """Runs and undoes each statement with each plan that it may get, before it runs it.

    Attributes:
        handled: the most rows that a statement has handled.
        plan: the plan with which it has.
    """

    __slots__ = ("handled", "plan")

    def __init__(self, connection: Any) -> None:
        super().__init__(connection)
        self.handled = 0.0
        self.plan = ""

    async def rows(self, statement: Query, /, **values: Any) -> Sequence[Row]:
        await self._explain(statement, values)
        return await super().rows(statement, **values)

    async def first(self, statement: Query, /, **values: Any) -> Row | None:
        await self._explain(statement, values)
        return await super().first(statement, **values)

    async def execute(self, statement: Query, /, **values: Any) -> int:
        await self._explain(statement, values)
        return await super().execute(statement, **values)

    async def _explain(self, statement: Query, values: Mapping[str, Any]) -> None:
        prepared = await self._connection.prepare(statement.text)
        call = await self._call(prepared, statement.arguments(values))
        (mode,) = await self._connection.fetchrow("SELECT current_setting('plan_cache_mode')")
        for forced in _MODES[mode]:
            await self._connection.execute(f"SAVEPOINT explained; SET LOCAL plan_cache_mode = {forced}")
            (found,) = await self._connection.fetchrow(
                f"EXPLAIN (ANALYZE, BUFFERS, TIMING OFF, FORMAT JSON) EXECUTE {call}"
            )
            await self._connection.execute("ROLLBACK TO SAVEPOINT explained")
            top = json.loads(found)[0]["Plan"]
            handled = sum(map(_handled_by, _nodes(top))) + sum(top[name] for name in _BLOCKS)
            if handled > self.handled:
                self.handled, self.plan = handled, f"{forced}\n{statement.text}\n{_summary(top)}"

    async def _call(self, prepared: Any, arguments: Sequence[Any]) -> str:
        """The call of a prepared statement with literals, because EXPLAIN passes no parameters on."""
        types = [it.name for it in prepared.get_parameters()]
        if not types:
            return str(prepared.get_name())
        quoted = ", ".join(f"quote_nullable(CAST(${n} AS {it}))" for n, it in enumerate(types, 1))
        literals = await self._connection.fetchrow(f"SELECT {quoted}", *arguments)
        return f"{prepared.get_name()}({', '.join(literals)})"


def _nodes(plan: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield plan
    for below in plan.get("Plans", ()):
        yield from _nodes(below)


def _handled_by(node: Mapping[str, Any]) -> float:
    return float(node["Actual Loops"] * (node["Actual Rows"] + sum(node.get(name, 0) for name in _REMOVED)))


def _summary(plan: Mapping[str, Any]) -> str:
    shown = (
        "Node Type",
        "Relation Name",
        "Index Name",
        "Index Cond",
        "Actual Loops",
        "Actual Rows",
        *_REMOVED,
    )
    return "\n".join(", ".join(str(it[name])[:200] for name in shown if name in it) for it in _nodes(plan))
