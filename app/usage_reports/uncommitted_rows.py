"""Finds ledger rows that a cell's worker of Citus may still commit, although the coordinator's transaction has ended.

There are two kinds. A prepared transaction has a record on the coordinator, so its number is known. A transaction that the
worker commits in one phase has none: the coordinator sends COMMIT, and commits itself once the worker has. If the coordinator
crashes, or its connection breaks, while the worker waits in this COMMIT for a synchronous standby or a slow disk, the rows
become visible later. Such a transaction is lost: it still has its lock of the ledger on the worker, and it belongs to none
that runs on the coordinator.
"""

from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY

from app.core.errors import DatabaseUnavailable
from app.database.sessions import Session
from app.database.statements import Query, Row

# The name of a transaction, the same on the coordinator and on the worker. Numbers begin again when the coordinator starts.
_NAME = "concat(t.initiator_node_identifier, '/', t.transaction_number, '/', extract(epoch FROM t.transaction_stamp))"
# The transactions that write the ledger. Their lock of the table ends with them, and that of a prepared one has no process. Those of
# the owner are left out: it adds events only in a move, which takes a two-phase commit. `%s` is the name of the table's shard.
_WRITING = f"""
    SELECT string_agg(CASE WHEN t.transaction_number > 0 THEN {_NAME} ELSE concat('process/', l.pid) END, ' ')
    FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
    LEFT JOIN get_all_active_transactions() t ON t.process_id = l.pid
    WHERE l.locktype = 'relation' AND l.relation = CAST('%s' AS regclass) AND l.mode = 'RowExclusiveLock' AND l.granted
    AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
    AND a.usesysid <> (SELECT c.relowner FROM pg_class c WHERE c.oid = l.relation)
"""
# Prepared are those that the coordinator has committed, and that this cell's worker has not committed yet. After a crash it does
# once Citus has looked for them. The statement reads the coordinator's records before it asks the worker: rows that are not prepared
# by then are visible to later statements. A record has the lower 32 bits of the number, which is below the end of the snapshot.
_ASK_WORKER = Query(
    sa.text(f"""
        SELECT bool_and(w.success) AS is_reached, max(split_part(w.result, '|', 2)) AS writing,
            min(s.next - ((s.next - CAST(CAST(t.xmin AS text) AS bigint)) & 4294967295)) AS oldest
        FROM (SELECT CAST(CAST(pg_snapshot_xmax(pg_current_snapshot()) AS text) AS bigint) AS next) AS s
        CROSS JOIN pg_catalog.pg_dist_partition p
        CROSS JOIN LATERAL run_command_on_shards(p.logicalrelid, $command$
            SELECT concat((SELECT string_agg(gid, ' ') FROM pg_prepared_xacts
                WHERE database = current_database() AND starts_with(gid, 'citus_')),
                '|', ({_WRITING}))
        $command$) w
        LEFT JOIN pg_catalog.pg_dist_transaction t
            ON w.success AND t.gid = ANY (string_to_array(split_part(w.result, '|', 1), ' '))
        WHERE p.logicalrelid = to_regclass('usage_event')
    """)
)
# First the processes, then their transactions: while the coordinator rolls one back, it has the name and no number any more.
_PROCESSES = Query(
    sa.text(
        "SELECT coalesce(array_agg(pid), '{}') AS pids FROM pg_stat_activity WHERE backend_xid IS NOT NULL"
    )
)
_RUNNING = Query(
    sa.text(
        f"SELECT {_NAME} AS name FROM get_all_active_transactions() t WHERE t.process_id = ANY (:pids)"
    ).bindparams(sa.bindparam("pids", type_=ARRAY(sa.Integer)))
)


@dataclass(frozen=True, slots=True, kw_only=True)
class UncommittedRows:
    """What the worker has yet to commit.

    Attributes:
        oldest: the first transaction that is prepared. None: there is none.
        has_lost: there is a lost transaction, whose number is not known.
    """

    oldest: int | None = None
    has_lost: bool = False

    def __bool__(self) -> bool:
        return self.has_lost or self.oldest is not None


async def find_uncommitted_rows(session: Session) -> UncommittedRows:
    """Find what the worker of this cell has yet to commit.

    The caller has found the oldest running transaction before. An event that is below it, and becomes visible later, is of a
    transaction that writes the ledger on the worker from before until after both questions, and never runs on the coordinator.
    One that runs there has its number before it reaches the worker. So after the first question, it is found running,
    or it has ended on the worker by the second one, which is asked only in that case.

    Raises:
        DatabaseUnavailable: the worker cannot be reached.
    """
    if not session.is_on_citus:
        return UncommittedRows()
    found = await _ask_worker(session)
    lost = _names(found)
    if lost:
        pids = (await session.one(_PROCESSES))["pids"]
        lost -= {row["name"] for row in await session.rows(_RUNNING, pids=pids)}
    if lost:
        lost &= _names(await _ask_worker(session))
    return UncommittedRows(oldest=found["oldest"], has_lost=bool(lost))


async def _ask_worker(session: Session) -> Row:
    found = await session.one(_ASK_WORKER)
    if found["is_reached"] is False:
        raise DatabaseUnavailable
    return found


def _names(found: Row) -> set[str]:
    return set((found["writing"] or "").split())
