"""Responses that clients do not read: the organization with the most of them loses connections."""

import asyncio
from dataclasses import dataclass
from typing import cast

from app.api.connections import UnreadResponses


@dataclass(eq=False)
class _Connection:
    is_aborted: bool = False

    def abort(self) -> None:
        self.is_aborted = True


class TestUnreadResponses:
    def test_organization_with_the_most_bytes_loses_its_oldest_connection(self) -> None:
        unread = UnreadResponses(100)
        victim, *greedy = (_Connection() for _ in range(4))

        unread.add(_transport(victim), "org_victim", 10)
        for connection in greedy:
            unread.add(_transport(connection), "org_greedy", 40)

        assert [it.is_aborted for it in (victim, *greedy)] == [False, True, False, False]
        assert unread.total_bytes == 90

    def test_response_that_was_read_does_not_count(self) -> None:
        unread = UnreadResponses(100)
        connections = [_Connection() for _ in range(5)]
        for connection in connections:
            unread.add(_transport(connection), "org_a", 60)
            unread.discard(_transport(connection))
            unread.discard(_transport(connection))

        assert not any(it.is_aborted for it in connections)
        assert unread.total_bytes == 0

    def test_next_response_of_a_connection_replaces_the_previous_one(self) -> None:
        unread, connection = UnreadResponses(100), _Connection()

        for _ in range(5):
            unread.add(_transport(connection), "org_a", 60)

        assert not connection.is_aborted

    def test_response_above_the_limit_is_closed(self) -> None:
        unread, connection = UnreadResponses(100), _Connection()

        unread.add(_transport(connection), "org_a", 101)

        assert connection.is_aborted
        assert unread.total_bytes == 0


def _transport(connection: _Connection) -> asyncio.Transport:
    return cast("asyncio.Transport", connection)
