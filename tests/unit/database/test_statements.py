"""Every statement compiles, and has only bind parameters as values. In the service, that shows at the first use."""

import importlib
import pkgutil
from collections.abc import Iterator

import app
from app.database.migrations import _config, newest_revision
from app.database.statements import FixedStatement, Query


def statements() -> Iterator[tuple[str, Query | FixedStatement]]:
    for module in pkgutil.walk_packages(app.__path__, "app."):
        for name, value in vars(importlib.import_module(module.name)).items():
            if isinstance(value, Query | FixedStatement):
                yield f"{module.name}.{name}", value


def test_every_statement_compiles() -> None:
    found = dict(statements())

    assert len(found) > 100
    assert all(statement.text for statement in found.values())


def test_the_newest_revision_is_the_one_that_alembic_finds() -> None:
    from alembic.script import ScriptDirectory  # noqa: PLC0415  # slow to import

    assert newest_revision() == ScriptDirectory.from_config(_config()).get_current_head()
