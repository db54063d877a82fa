"""What the relay's connections have besides aiohttp. Nothing here imports it, because that is slow."""

import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeAlias

# NAT drops connections that are silent for 120 to 350 seconds; a model may think longer.
_KEEP_ALIVE_OPTIONS: Final = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 15),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4),
)


def keep_alive(connection: socket.socket) -> None:
    """Have the kernel probe a silent connection after 60 s, so that NAT keeps it and a dead peer is noticed."""
    for level, option, value in _KEEP_ALIVE_OPTIONS:
        connection.setsockopt(level, option, value)


@dataclass(slots=True)
class ConnectionCount:
    """How many connections of a connector are open."""

    open: int = 0


# Maps a validated address and its port to where the connection goes.
Route: TypeAlias = Callable[[str, int], tuple[str, int]]


def direct(address: str, port: int) -> tuple[str, int]:
    """Connect to the address itself."""
    return address, port
