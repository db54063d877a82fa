"""Parses database URLs as operators copy them from PostgreSQL's tools. No message quotes any part of a URL.

A password that is not percent-encoded may end up in the host, the path or the name of a parameter. So a URL is parsed
here, and not by a library whose messages quote what they could not parse.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import TYPE_CHECKING
from urllib.parse import unquote

from app.database.url_parameters import POOLER, DatabaseUrlRefused, driver_arguments, read_parameters

if TYPE_CHECKING:
    import sqlalchemy as sa

LARGEST_PORT = 65535
DEFAULT_PORT = 5432

_SCHEMES = ("postgresql", "postgres", "postgresql+asyncpg")
_EXAMPLE = "postgresql://user:password@host:5432/name"
_NOT_A_URL = f"must be a URL such as {_EXAMPLE}"
_NO_DRIVER = f"{_NOT_A_URL}, without the name of a driver"
_ENCODE = (
    "the user or the password contains a reserved character; percent-encode it:"
    " %40 for @, %2F for /, %3A for :, %3F for ?, %23 for #, %25 for %"
)
_BAD_PLACE = (
    "each host must be a name or an address, with a port between 1 and 65535; percent-encode the characters"
    " @ : / ? # % in a user or a password"
)
_BAD_NAME = "each host must be a name whose parts between dots have 1 to 63 characters, an address, or the directory of a socket"
_BAD_PORTS = "the port must be one for all hosts, or one for each, separated by commas"
_PLACE = re.compile(r"(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<name>[\w.%-]*))(?::(?P<port>[0-9]*))?")
_NAME = re.compile(r"[\w.-]+")
_PORT = re.compile(r"[0-9]{1,10}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseUrl:
    """A database URL. `arguments` are its checked parameters, under the names that the driver has for them."""

    hosts: tuple[str, ...]
    ports: tuple[int, ...]
    user: str | None
    password: str | None = field(repr=False)
    database: str | None
    arguments: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_pooled(self) -> bool:
        """Whether a pooler in transaction mode is between the service and the server."""
        return self.arguments.get(POOLER) == "true"

    def for_sqlalchemy(self) -> "sa.URL":
        """The same URL for SQLAlchemy and for `app.database.connections`."""
        import sqlalchemy as sa  # noqa: PLC0415  # slow to import, and settings are read by every command

        query = dict(self.arguments)
        is_one_host = len(self.hosts) == 1 and not self.hosts[0].startswith("/")
        has_places = bool(self.hosts) and not is_one_host
        if has_places:
            query |= {"host": ",".join(self.hosts), "port": ",".join(map(str, self.ports))}
        return sa.URL.create(
            "postgresql+asyncpg",
            username=self.user,
            password=self.password,
            host=self.hosts[0] if is_one_host else None,
            port=self.ports[0] if self.ports and not has_places else None,
            database=self.database,
            query=query,
        )


def parse_database_url(text: str) -> DatabaseUrl:
    """Parse a URL.

    Raises:
        DatabaseUrlRefused
    """
    rest = _without_scheme(text)
    end = min((at for at in map(rest.find, "/?#") if at >= 0), default=len(rest))
    authority, rest = rest[:end], rest[end:]
    # The last @ ends the password. One before or after it is a part of the password that was not encoded.
    if "@" in rest or "#" in rest or authority.count("@") > 1:
        raise DatabaseUrlRefused(_ENCODE)
    path, _, query = rest.partition("?")
    login, _, places = authority.rpartition("@")
    user, has_password, password = login.partition(":")
    # Before the parameters, whose names are quoted: a host that is not valid could be a part of the password.
    hosts, ports = _places(places)
    parameters = read_parameters(query)
    hosts, ports = _replaced_places(hosts, ports, parameters)
    # As in PostgreSQL's own library, a parameter replaces what is before the question mark.
    return DatabaseUrl(
        hosts=hosts,
        ports=_ports(hosts, ports),
        user=parameters.pop("user", unquote(user)) or None,
        password=parameters.pop("password", unquote(password) if has_password else None),
        database=parameters.pop("dbname", unquote(path.removeprefix("/"))) or None,
        arguments=dict(driver_arguments(parameters)),
    )


def _without_scheme(text: str) -> str:
    if text.strip().strip("'\"") != text:
        raise DatabaseUrlRefused("must not begin or end with white space or quotes; remove them")
    if "%00" in text:
        raise DatabaseUrlRefused("contains %00, which PostgreSQL does not accept; percent-encode a % as %25")
    scheme, separator, rest = text.partition("://")
    if not separator:
        raise DatabaseUrlRefused(_NOT_A_URL)
    if scheme in _SCHEMES:
        return rest
    if scheme.split("+")[0].removeprefix("jdbc:") in _SCHEMES:
        raise DatabaseUrlRefused(_NO_DRIVER)
    raise DatabaseUrlRefused("must be a postgresql:// URL")


def _replaced_places(
    hosts: tuple[str, ...], ports: tuple[str, ...], parameters: dict[str, str]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The hosts and ports after the parameters `host` and `port`, each of which leaves the other as it is."""
    separate = parameters.pop("port", "")
    if separate:
        ports = tuple(separate.split(","))
    if "host" in parameters:
        hosts, own_ports = _places(parameters.pop("host"), is_parameter=True)
        if any(own_ports):
            shared = _matched(ports, len(hosts)) if separate else ("",) * len(hosts)
            ports = tuple(own or other for own, other in zip(own_ports, shared, strict=True))
    return hosts, ports


def _places(text: str, *, is_parameter: bool = False) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The hosts and their ports as text. A port may have no host: then the server is on this machine."""
    if not text:
        return (), ()
    if text.startswith(":") and "," not in text and not is_parameter:
        found = _PLACE.fullmatch(text)
        if found is None:
            raise DatabaseUrlRefused(_BAD_PLACE)
        return (), (found["port"],)
    places = [_place(place, is_parameter=is_parameter) for place in text.split(",")]
    return tuple(host for host, _ in places), tuple(port for _, port in places)


def _place(text: str, *, is_parameter: bool) -> tuple[str, str]:
    """A host and its port as text. The directory of a socket is a host too."""
    if is_parameter and (text.startswith("/") or _is_ipv6(text)):
        return _checked_host(text), ""
    found = _PLACE.fullmatch(text)
    if found is None or not (found["v6"] or found["name"]):
        raise DatabaseUrlRefused(_BAD_PLACE)
    port = found["port"] or ""
    if found["v6"]:
        return found["v6"], port
    return _checked_host(found["name"] if is_parameter else unquote(found["name"])), port


def _is_ipv6(text: str) -> bool:
    try:
        return ip_address(text).version == 6  # noqa: PLR2004  # of the Internet Protocol
    except ValueError:
        return False


def _checked_host(host: str) -> str:
    """The host, if the driver can look it up."""
    if host.startswith("/") or _is_ipv6(host):
        is_valid = not _CONTROL.search(host)
    else:
        try:
            host.encode("idna")  # the socket does the same
            is_valid = _NAME.fullmatch(host) is not None
        except UnicodeError:
            is_valid = False
    if not is_valid:
        raise DatabaseUrlRefused(_BAD_NAME)
    return host


def _ports(hosts: tuple[str, ...], ports: tuple[str, ...]) -> tuple[int, ...]:
    if not hosts and not any(ports):
        return ()
    return tuple(_port(text) for text in _matched(ports, max(1, len(hosts))))


def _matched(ports: tuple[str, ...], count: int) -> tuple[str, ...]:
    """The port of each host."""
    if len(ports) == count:
        return ports
    if len(ports) > 1:
        raise DatabaseUrlRefused(_BAD_PORTS)
    return (ports or ("",)) * count


def _port(text: str) -> int:
    port = int(text) if _PORT.fullmatch(text) else (0 if text else DEFAULT_PORT)
    if not 0 < port <= LARGEST_PORT:
        raise DatabaseUrlRefused("the port must be between 1 and 65535")
    return port
