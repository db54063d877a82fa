"""Parses the address of a DNS server, with or without a port."""

import re
from dataclasses import dataclass
from typing import Final

from app.provider_url.address_policy import parse_address

_DNS_PORT: Final = 53
_LARGEST_PORT: Final = 65535
_ADDRESS_AND_PORT = re.compile(r"(?:\[(?P<ipv6>[^\]]+)\]|(?P<ipv4>[^:\[\]]+)):(?P<port>[0-9]{1,5})")


@dataclass(frozen=True, slots=True, kw_only=True)
class NameServer:
    """Where a DNS server listens."""

    address: str
    port: int


def parse_name_server(text: str) -> NameServer | None:
    """Parse `address`, `address:port` or `[address]:port`; otherwise None. Zones are not supported."""
    if parse_address(text) is not None:
        return NameServer(address=text, port=_DNS_PORT)
    parts = _ADDRESS_AND_PORT.fullmatch(text)
    if parts is None:
        return None
    address, port = parts["ipv6"] or parts["ipv4"], int(parts["port"])
    if parse_address(address) is None or not 0 < port <= _LARGEST_PORT:
        return None
    return NameServer(address=address, port=port)
