"""Parses database URLs as operators copy them from PostgreSQL's tools. No message quotes any part of a URL.

A password that is not percent-encoded may end up in the host, the path or the name of a parameter. So a URL is parsed
here, and not by a library whose messages quote what they could not parse.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, unquote

if TYPE_CHECKING:
    import sqlalchemy as sa

LARGEST_PORT = 65535
DEFAULT_PORT = 5432

SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
# Says that a pooler in transaction mode is between the service and the server. Other tools have the same name for it.
POOLER = "pgbouncer"
SESSION_ATTRIBUTES = ("any", "primary", "standby", "prefer-standby", "read-write", "read-only")

_SCHEMES = ("postgresql", "postgres", "postgresql+asyncpg")
_EXAMPLE = "postgresql://user:password@host:5432/name"
_NOT_A_URL = f"must be a URL such as {_EXAMPLE}"
_ENCODE = (
    "the user or the password contains a reserved character; percent-encode it:"
    " %40 for @, %2F for /, %3A for :, %3F for ?, %23 for #, %25 for %"
)
_BAD_PLACE = (
    "each host must be a name or an address, with a port between 1 and 65535; percent-encode the characters"
    " @ : / ? # % in a user or a password"
)
_PLACE = re.compile(r"(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<name>[\w.%-]*))(?::(?P<port>[0-9]*))?")
_ONLY_PORT = re.compile(r":[0-9]+")
_PARAMETER = re.compile(r"[A-Za-z][A-Za-z_]{0,40}")
_CERTIFICATES = frozenset(
    {"sslcert", "sslkey", "sslrootcert", "sslcrl", "sslcrldir", "sslpassword", "sslcertmode"}
)
# Parameters that may stay in a URL with these values, because the driver does then what they ask for.
_WITHOUT_EFFECT: Mapping[str, frozenset[str]] = {
    "channel_binding": frozenset({"disable", "prefer"}),
    "gssencmode": frozenset({"disable", "prefer"}),
    "client_encoding": frozenset({"utf8", "utf-8", "auto"}),
    "sslcompression": frozenset({"0"}),
    "sslsni": frozenset({"1"}),
}
_NO_EFFECT_HERE = "remove it"
# Parameters of PostgreSQL's and other tools that this service cannot follow, and what to do about them.
_REFUSED: Mapping[str, str] = {
    "channel_binding": "the driver has no channel binding; remove it, and set sslmode=verify-full",
    "gssencmode": "the driver has no GSS encryption; remove it, and set sslmode=verify-full",
    "client_encoding": "the encoding is always UTF-8; remove it",
    "schema": "the tables are in the schema public; remove it",
    "service": "set the host, the database and the login in the URL",
    "sslcompression": _NO_EFFECT_HERE,
    "sslsni": _NO_EFFECT_HERE,
    "requiressl": "set sslmode=require",
    "require_auth": _NO_EFFECT_HERE,
    "load_balance_hosts": _NO_EFFECT_HERE,
    "replication": _NO_EFFECT_HERE,
    "keepalives": _NO_EFFECT_HERE,
    "keepalives_idle": _NO_EFFECT_HERE,
    "keepalives_interval": _NO_EFFECT_HERE,
    "keepalives_count": _NO_EFFECT_HERE,
    "tcp_user_timeout": _NO_EFFECT_HERE,
    "fallback_application_name": "set application_name",
    "connection_limit": "set BYOK_DATABASE__POOL_SIZE",
    "pool_timeout": "set BYOK_DATABASE__TIMEOUT",
    "command_timeout": "set BYOK_DATABASE__TIMEOUT",
    "timeout": "set connect_timeout",
}
_VALUES: Mapping[str, tuple[str, ...]] = {
    "sslmode": SSL_MODES,
    "ssl": SSL_MODES,
    "target_session_attrs": SESSION_ATTRIBUTES,
    POOLER: ("true", "false"),
    "gsslib": ("gssapi", "sspi"),
    "sslnegotiation": ("postgres", "direct"),
}
_NUMBERS = frozenset({"connect_timeout", "statement_cache_size", "prepared_statement_cache_size"})
_LONGEST_NUMBER = 6
_DRIVER_NAMES: Mapping[str, str] = {"sslmode": "ssl"}
_KNOWN = frozenset(
    {"host", "port", "user", "password", "dbname", "application_name", "options", "passfile", "krbsrvname"}
    | _VALUES.keys()
    | _NUMBERS
    | _WITHOUT_EFFECT.keys()
    | _REFUSED.keys()
    | _CERTIFICATES
)
_UNKNOWN_PARAMETER = f"contains a parameter that is not known; the known ones are {', '.join(sorted(_KNOWN))}"


class DatabaseUrlRefused(ValueError):
    """The URL cannot be used. The message is a constant, or names a parameter."""


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
        if self.hosts and not is_one_host:
            query |= {"host": ",".join(self.hosts), "port": ",".join(map(str, self.ports))}
        return sa.URL.create(
            "postgresql+asyncpg",
            username=self.user,
            password=self.password,
            host=self.hosts[0] if is_one_host else None,
            port=self.ports[0] if is_one_host else None,
            database=self.database,
            query=query,
        )


def parse_database_url(text: str) -> DatabaseUrl:
    """Parse a URL.

    Raises:
        DatabaseUrlRefused
    """
    scheme, separator, rest = text.partition("://")
    if not separator:
        raise DatabaseUrlRefused(_NOT_A_URL)
    if scheme not in _SCHEMES:
        raise DatabaseUrlRefused("must be a postgresql:// URL")
    end = min((at for at in map(rest.find, "/?#") if at >= 0), default=len(rest))
    authority, rest = rest[:end], rest[end:]
    # The last @ ends the password. One before or after it is a part of the password that was not encoded.
    if "@" in rest or "#" in rest or authority.count("@") > 1:
        raise DatabaseUrlRefused(_ENCODE)
    path, _, query = rest.partition("?")
    login, _, places = authority.rpartition("@")
    user, has_password, password = login.partition(":")
    port = ""
    if (
        login and _ONLY_PORT.fullmatch(places) and "host=" in query
    ):  # the directory of a socket is a parameter
        places, port = "", places[1:]
    # Before the parameters, whose names are quoted: without a host, they could be a part of the password.
    _places(places, "")
    parameters = _parameters(query)
    hosts, ports = _places(parameters.pop("host", places), parameters.pop("port", port))
    query_user, query_password = parameters.pop("user", None), parameters.pop("password", None)
    query_database = parameters.pop("dbname", None)
    return DatabaseUrl(
        hosts=hosts,
        ports=ports,
        user=unquote(user) or query_user,
        password=unquote(password) if has_password else query_password,
        database=unquote(path.removeprefix("/")) or query_database,
        arguments=dict(_arguments(parameters)),
    )


def _parameters(query: str) -> dict[str, str]:
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query))
    except ValueError:
        raise DatabaseUrlRefused("the parameters after ? must be name=value, separated by &") from None
    values: dict[str, str] = {}
    for name, value in pairs:
        # Several hosts may be given as several parameters.
        values[name] = f"{values[name]},{value}" if name == "host" and name in values else value
    # After an unencoded & in a password, the rest of the password looks like the name of a parameter.
    if unknown := sorted(values.keys() - _KNOWN):
        if "password" not in values and _PARAMETER.fullmatch(unknown[0]):
            raise _refused(unknown[0], "is not known; remove it")
        raise DatabaseUrlRefused(_UNKNOWN_PARAMETER)
    return values


def _places(hosts: str, ports: str) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """The hosts and their ports. The ports may be given with the hosts or separately."""
    if not hosts:
        return (), ()
    found = hosts.split(",")
    separate = ports.split(",") if ports else [""]
    if len(separate) not in {1, len(found)}:
        raise DatabaseUrlRefused("the parameter port must have one port for all hosts, or one for each")
    names, numbers = [], []
    for index, place in enumerate(found):
        name, port = _place(place)
        names.append(name)
        numbers.append(_port(port or separate[index % len(separate)]))
    return tuple(names), tuple(numbers)


def _place(text: str) -> tuple[str, str]:
    """A host and its port as text. The directory of a socket is a host too."""
    if text.startswith("/"):
        return text, ""
    found = _PLACE.fullmatch(text)
    if found is None or not (found["v6"] or found["name"]):
        raise DatabaseUrlRefused(_BAD_PLACE)
    return found["v6"] or unquote(found["name"]), found["port"] or ""


def _port(text: str) -> int:
    port = int(text) if text.isascii() and text.isdecimal() else (0 if text else DEFAULT_PORT)
    if not 0 < port <= LARGEST_PORT:
        raise DatabaseUrlRefused("the port must be between 1 and 65535")
    return port


def _arguments(parameters: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """The parameters under the names of the driver, with checked values."""
    for name, value in parameters.items():
        if name in _CERTIFICATES:
            raise _refused(name, "is not supported; set PGSSLROOTCERT, PGSSLCERT and PGSSLKEY")
        if value.lower() in _WITHOUT_EFFECT.get(name, ()):
            continue
        if name in _REFUSED:
            raise _refused(name, f"is not supported; {_REFUSED[name]}")
        allowed = _VALUES.get(name, ())
        if allowed and value not in allowed:
            raise _refused(name, f"must be one of {', '.join(allowed)}")
        if name in _NUMBERS and not (value.isascii() and value.isdecimal() and len(value) <= _LONGEST_NUMBER):
            raise _refused(name, "must be a whole number")
        yield _DRIVER_NAMES.get(name, name), value


def _refused(parameter: str, reason: str) -> DatabaseUrlRefused:
    return DatabaseUrlRefused(f"the parameter {parameter} {reason}")
