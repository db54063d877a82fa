"""A new migration of tables in a distributed cell, and the statements that such a migration may use.

Skipped where PostgreSQL does not have the extension.
"""

import os
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import asyncpg
import pytest
import sqlalchemy as sa

from app.database import migrations
from app.database.connections import connect, create_engine
from app.settings.settings import Settings
from app.usage_reports.rollup_worker import RollupWorker
from tests.support.database.celled import ingest, requests_in_report
from tests.support.database.celled_on_citus import Cluster, celled_on_citus
from tests.support.database.citus import CitusCluster, needs_citus, run_on
from tests.support.database.citus_rules import refused_on_citus
from tests.support.requests.usage_events import event
from tests.support.tenant import MakeToken

pytestmark = [pytest.mark.slow, needs_citus]

# What migrations are most often for: a column with a default, an index, a table with its privileges and policy, a function.
_MIGRATION = '''
from alembic import op
import sqlalchemy as sa

revision, down_revision, branch_labels, depends_on = "f00000000001", "{head}", None, None
OWN = "organization_id = current_setting('byok.org', true)"


def upgrade():
    op.execute("SET LOCAL lock_timeout = '3s'")
    op.add_column("usage_event", sa.Column("added", sa.Integer, nullable=False, server_default="7"))
    op.create_index("ix_spend_limit_name", "spend_limit", ["organization_id", "name"])
    op.create_check_constraint("ck_added", "usage_event", "added > 0")
    op.execute("CREATE TABLE note (organization_id text, id uuid, CONSTRAINT pk_note PRIMARY KEY (organization_id, id))")
    op.execute("GRANT SELECT, INSERT ON note TO byok_service")
    op.execute("ALTER TABLE note ENABLE ROW LEVEL SECURITY")
    op.execute("ALTER TABLE note FORCE ROW LEVEL SECURITY")
    op.execute(f"CREATE POLICY organization ON note TO byok_service USING ({{OWN}}) WITH CHECK ({{OWN}})")
    op.execute("""
        CREATE OR REPLACE FUNCTION has_unfolded_usage() RETURNS boolean
        LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
        AS 'SELECT count(*) >= 0 FROM public.usage_event WHERE added > 0'
    """)


def downgrade():
    op.execute("DROP TABLE note")
'''
_SHOW_SHARDS = "SET citus.override_table_visibility = off"
_POLICY = "SELECT FROM pg_policies WHERE schemaname = 'cell_1' AND tablename ~ '^note_' AND permissive = 'PERMISSIVE'"
_INDEX = "SELECT FROM pg_indexes WHERE schemaname = 'cell_1' AND indexname ~ '^ix_spend_limit_name_'"
_FUNCTION = (
    "SELECT FROM pg_proc WHERE proname = 'has_unfolded_usage' AND prosrc ~ 'cell_1.usage_event WHERE added'"
)
_ON_WORKER = (f"{_POLICY} AND roles = '{{public}}'", _INDEX, _FUNCTION)
_DOES = "CREATE FUNCTION public.{} LANGUAGE sql AS 'SELECT 1'"
# Each runs after those before it. Names of tables and columns are those of the service.
_STATEMENTS = [
    "ALTER TABLE public.spend_limit ADD COLUMN m1 integer NOT NULL DEFAULT 0",
    "ALTER TABLE public.spend_limit ADD COLUMN m2 timestamptz NOT NULL DEFAULT now(), ADD COLUMN m3 text",
    "ALTER TABLE public.spend_limit ADD COLUMN m4 integer CONSTRAINT ck_m4 CHECK (m4 > 0)",
    "ALTER TABLE public.spend_limit ADD COLUMN m5 integer, ADD CONSTRAINT ck_m5 CHECK (m5 > 0)",
    "ALTER TABLE public.spend_limit ADD CONSTRAINT ck_a CHECK (m1 > 1), ADD CONSTRAINT ck_b CHECK (m1 > 2)",
    "ALTER TABLE public.spend_limit ADD COLUMN m6 integer GENERATED ALWAYS AS (1) STORED",
    "ALTER TABLE public.spend_limit ADD COLUMN m7 bigint GENERATED ALWAYS AS IDENTITY",
    "ALTER TABLE public.spend_limit ADD CONSTRAINT ck_name CHECK (length(name) < 10000) NOT VALID",
    "ALTER TABLE public.spend_limit VALIDATE CONSTRAINT ck_name",
    "ALTER TABLE public.spend_limit DROP CONSTRAINT ck_name",
    "ALTER TABLE public.spend_limit ALTER COLUMN m1 TYPE bigint",
    "ALTER TABLE public.spend_limit ALTER COLUMN m1 DROP NOT NULL",
    "ALTER TABLE public.spend_limit ALTER COLUMN m1 SET DEFAULT 1",
    "ALTER TABLE public.spend_limit RENAME COLUMN m1 TO m1b",
    "ALTER TABLE public.spend_limit DROP COLUMN m1b",
    "ALTER TABLE public.spend_limit SET (fillfactor = 90)",
    "ALTER TABLE public.spend_limit ALTER COLUMN name SET STATISTICS 200",
    "ALTER TABLE public.spend_limit CLUSTER ON pk_spend_limit",
    "CREATE INDEX ix_m1 ON public.usage_event (organization_id, model)",
    "CREATE UNIQUE INDEX ix_m2 ON public.spend_limit (organization_id, name, id) WHERE name <> ''",
    "DROP INDEX public.ix_m2",
    "CREATE TABLE public.thing (organization_id text, id uuid, other uuid, PRIMARY KEY (organization_id, id))",
    "ALTER TABLE public.thing ADD FOREIGN KEY (organization_id, other) REFERENCES public.spend_limit",
    "ALTER TABLE public.thing ENABLE ROW LEVEL SECURITY",
    "CREATE POLICY own ON public.thing USING (organization_id = current_setting('byok.org', true))",
    "ALTER POLICY own ON public.thing TO PUBLIC",
    "DROP POLICY own ON public.thing",
    "GRANT SELECT ON public.thing TO byok_service",
    "GRANT UPDATE (name) ON public.spend_limit TO byok_service",
    "DROP TABLE public.thing",
    "CREATE TABLE public.e_2031 PARTITION OF public.usage_event FOR VALUES FROM ('2031-01-01') TO ('2031-02-01')",
    "UPDATE public.spend_limit SET name = name || 'x' WHERE organization_id = ''",
    "UPDATE public.spend_limit SET name = name || clock_timestamp()",
    "DELETE FROM public.spend_limit WHERE name = 'none'",
    "INSERT INTO public.spend_alert SELECT * FROM public.spend_alert WHERE organization_id = '' ON CONFLICT DO NOTHING",
    _DOES.format("mf(a int) RETURNS integer"),
    "ALTER FUNCTION public.mf(int) SET search_path = pg_catalog",
    "GRANT EXECUTE ON FUNCTION public.mf(int) TO byok_service",
    "DROP FUNCTION public.mf(int)",
    "CREATE FUNCTION public.tf() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
    "CREATE TRIGGER t BEFORE INSERT ON public.spend_limit FOR EACH ROW EXECUTE FUNCTION public.tf()",
    "CREATE VIEW public.v AS SELECT organization_id FROM public.spend_limit",
    "COMMENT ON TABLE public.spend_limit IS 'x'",
    "LOCK TABLE public.spend_limit IN ACCESS EXCLUSIVE MODE",
]


@pytest.fixture
async def celled(cluster: CitusCluster, settings: Settings, make_token: MakeToken) -> AsyncIterator[Cluster]:
    async with celled_on_citus(cluster, settings, make_token) as celled:
        yield celled


async def migrate_all_cells(owner: sa.URL, directory: Path) -> None:
    """As `byok migrate`, with one more migration, which is in this directory."""
    (directory / "2027-01-01-0000_new.py").write_text(_MIGRATION.format(head=migrations.newest_revision()))
    engine = create_engine(owner)
    for cell in ("public", "cell_1", "cell_2"):
        config = migrations._config()
        config.set_main_option("version_locations", f"{migrations._VERSIONS}{os.pathsep}{directory}")
        async with engine.begin() as connection:
            await connection.run_sync(
                partial(migrations._migrate_cell, cell=cell, target="head", config=config)
            )
    await engine.dispose()


class TestNewMigration:
    async def test_changes_the_tables_of_a_cell_on_a_worker(
        self, celled: Cluster, cluster: CitusCluster, tmp_path: Path
    ) -> None:
        tenant = await celled.tenant_in("cell_1")

        await migrate_all_cells(celled.roles.owner, tmp_path)

        assert (await ingest(tenant, event())).status_code == 200
        (row,) = await celled.rows("SELECT count(*) AS n, min(added) AS least FROM cell_1.usage_event")
        assert (row["n"], row["least"]) == (2, 7)
        assert (await celled.rows("SELECT cell_1.has_unfolded_usage() AS has"))[0]["has"]
        assert (await celled.rows("SELECT count(*) AS n FROM cell_1.note"))[0]["n"] == 0
        worker = (await celled.worker(cluster, "cell_1")).superuser.set(database=celled.roles.name)
        for statement in _ON_WORKER:
            assert len(await run_on(worker, _SHOW_SHARDS, statement)) == 1, statement
        await celled.services[RollupWorker].roll_up(tenant.organization)
        assert await requests_in_report(tenant) == 2


class TestStatements:
    async def test_are_refused_as_the_rules_state(self, celled: Cluster) -> None:
        found = {}
        connection = await connect(celled.roles.owner)
        outer = connection.transaction()
        await outer.start()
        for statement in _STATEMENTS:
            try:
                async with connection.transaction():
                    await connection.execute(statement.replace("public.", "cell_1."))
            except asyncpg.PostgresError:
                found[statement] = True
            else:
                found[statement] = False
        await outer.rollback()
        await connection.close()

        assert found == {statement: refused_on_citus(statement) is not None for statement in _STATEMENTS}
