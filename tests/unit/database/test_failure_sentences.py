"""The sentence for a database that cannot be used."""

import asyncio

import asyncpg
import pytest

from app.database.connections import describe_failure
from app.database.preflight import DATABASE_ERRORS


class TestHostOfTheEnvironment:
    async def test_that_cannot_be_looked_up_is_an_error_of_the_database(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PGHOST", ".example.com")

        with pytest.raises(DATABASE_ERRORS) as failed:
            async with asyncio.timeout(5):
                await asyncpg.connect(user="u", database="d")

        assert describe_failure(failed.value).startswith("the host name of the database is not valid")
