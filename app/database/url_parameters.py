"""The parameters of database URLs: which are understood, which are refused, and what to do about those.

A message names a parameter only if its name cannot be a part of a password.
"""

import re
from collections.abc import Iterator, Mapping
from urllib.parse import unquote

SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
# Says that a pooler in transaction mode is between the service and the server. Other tools have the same name for it.
POOLER = "pgbouncer"
SESSION_ATTRIBUTES = ("any", "primary", "standby", "prefer-standby", "read-write", "read-only")

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
    "hostaddr": "set the address as the host",
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
_MOST_DIGITS = 6
# Form encoding, which other libraries decode in URLs. PostgreSQL's own does not.
_PLUS_FOR_A_BLANK = re.compile(r"(?:^|\+)-c\+|^\+|\+-c")
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


def read_parameters(query: str) -> dict[str, str]:
    """The decoded parameters after the question mark.

    Raises:
        DatabaseUrlRefused: one of them is not known.
    """
    values: dict[str, str] = {}
    for part in query.removesuffix("&").split("&") if query else ():
        name, separator, value = map(unquote, part.partition("="))
        if not separator:
            raise DatabaseUrlRefused("the parameters after ? must be name=value, separated by &")
        # Several hosts may be given as several parameters.
        values[name] = f"{values[name]},{value}" if name == "host" and name in values else value
    # After an unencoded & in a password, the rest of the password looks like the name of a parameter.
    if unknown := sorted(values.keys() - _KNOWN):
        if "password" not in values and _PARAMETER.fullmatch(unknown[0]):
            raise _refused(unknown[0], "is not known; remove it")
        raise DatabaseUrlRefused(_UNKNOWN_PARAMETER)
    return values


def driver_arguments(parameters: Mapping[str, str]) -> Iterator[tuple[str, str]]:
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
        if name in _NUMBERS:
            _check_number(name, value)
        if name == "options" and _PLUS_FOR_A_BLANK.search(value):
            raise _refused(name, "has + for a blank; write %20")
        yield _DRIVER_NAMES.get(name, name), value


def _check_number(name: str, value: str) -> None:
    if not (value.isascii() and value.isdecimal()):
        raise _refused(name, "must be a whole number")
    if len(value) > _MOST_DIGITS:
        raise _refused(name, f"must be at most {'9' * _MOST_DIGITS}")


def _refused(parameter: str, reason: str) -> DatabaseUrlRefused:
    return DatabaseUrlRefused(f"the parameter {parameter} {reason}")
