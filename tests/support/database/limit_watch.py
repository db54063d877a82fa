"""A trigger that fails every transaction in which a blocking limit is exceeded."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy.ext.asyncio import AsyncEngine

from tests.support.database.rows import change

CAN_WATCH = os.environ.get("BYOK_TEST_CELLS") != "citus"
# It checks every state of a counter, even states that no reader's snapshot contains.
_FUNCTION = """
    CREATE FUNCTION watch_{0}() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF NEW.reserved < 0 OR NEW.settled_managed + NEW.settled_byo + NEW.reserved > (
            SELECT CASE enforcement WHEN 'block' THEN amount ELSE 'Infinity'::numeric END
            FROM spend_limit WHERE organization_id = NEW.organization_id AND id = NEW.limit_id)
        THEN RAISE EXCEPTION 'a limit was exceeded'; END IF;
        RETURN NEW;
    END $$
"""
_TRIGGER = """
    CREATE TRIGGER watch_{0} AFTER INSERT OR UPDATE ON spend_counter
    FOR EACH ROW WHEN (NEW.organization_id = '{0}') EXECUTE FUNCTION watch_{0}()
"""


@asynccontextmanager
async def watched(superuser: AsyncEngine, organization: str) -> AsyncIterator[None]:
    """Watch the counters of an organization while the block runs. On Citus, which has no such triggers, nothing watches."""
    if not CAN_WATCH:
        yield
        return
    await change(superuser, _FUNCTION.format(organization))
    await change(superuser, _TRIGGER.format(organization))
    try:
        yield
    finally:
        await change(superuser, f"DROP FUNCTION watch_{organization} CASCADE")
