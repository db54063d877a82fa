"""Database URLs: what operators copy from other tools is understood or refused by name, and never quoted."""

from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.database.connections import connect_arguments
from app.database.url import DatabaseUrl, parse_database_url
from app.database.url_parameters import DatabaseUrlRefused
from tests.support.database.libpq import read_by_libpq

CANARY = "Zq7canaryXk"
RESERVED = "@:/?#[]%& ="


def arguments(url: str) -> dict[str, Any]:
    return connect_arguments(parse_database_url(url).for_sqlalchemy())


def refusal(url: str) -> str:
    with pytest.raises(DatabaseUrlRefused) as refused:
        parse_database_url(url)
    return str(refused.value)


class TestUnderstands:
    def test_a_percent_encoded_password(self) -> None:
        password = "p@ss:w/o?r#d%&"

        found = arguments(f"postgresql://byok_app:{quote(password, safe='')}@db.internal/byok")

        assert (found["user"], found["password"], found["host"]) == ("byok_app", password, "db.internal")

    def test_several_hosts(self) -> None:
        found = arguments("postgresql://u:p@one:5433,[2001:db8::1],three/byok?target_session_attrs=primary")

        assert found["host"] == ["one", "2001:db8::1", "three"]
        assert found["port"] == [5433, 5432, 5432]
        assert found["target_session_attrs"] == "primary"

    def test_the_directory_of_a_socket(self) -> None:
        found = arguments("postgresql://u@/byok?host=/var/run/postgresql&port=5433")

        assert (found["host"], found["port"]) == ("/var/run/postgresql", 5433)

    def test_login_and_database_as_parameters(self) -> None:
        found = arguments("postgresql://db?user=u&password=p%40ss&dbname=byok")

        assert (found["user"], found["password"], found["database"]) == ("u", "p@ss", "byok")

    def test_options_and_application_name_for_the_session(self) -> None:
        found = arguments(
            "postgresql://db/byok?options=-c%20work_mem%3D8MB&application_name=billing&connect_timeout=7"
        )

        assert found["server_settings"] == {"options": "-c work_mem=8MB", "application_name": "billing"}
        assert found["timeout"] == 7
        assert not found.keys() & {"options", "application_name", "connect_timeout"}

    @pytest.mark.parametrize("mode", ["disable", "allow", "prefer", "require", "verify-ca", "verify-full"])
    def test_every_ssl_mode(self, mode: str) -> None:
        assert arguments(f"postgresql://db/byok?sslmode={mode}")["ssl"] == mode

    @pytest.mark.parametrize(
        "harmless",
        ["channel_binding=prefer", "channel_binding=disable", "gssencmode=disable", "client_encoding=UTF8"],
    )
    def test_parameters_that_ask_for_what_the_driver_does_anyway(self, harmless: str) -> None:
        name = harmless.partition("=")[0]

        assert name not in arguments(f"postgresql://db/byok?{harmless}")

    def test_the_statement_cache_of_the_driver(self) -> None:
        assert arguments("postgresql://db/byok?statement_cache_size=0")["statement_cache_size"] == 0

    @pytest.mark.parametrize(
        ("query", "is_pooled", "cache"),
        [
            ("pgbouncer=true", True, 0),
            ("pgbouncer=true&statement_cache_size=100", True, 100),
            ("pgbouncer=false", False, None),
        ],
    )
    def test_a_pooler_in_transaction_mode(self, query: str, *, is_pooled: bool, cache: int | None) -> None:
        url = parse_database_url(f"postgresql://db/byok?{query}")
        found = connect_arguments(url.for_sqlalchemy())

        assert url.is_pooled is is_pooled
        assert found.get("statement_cache_size") == cache
        assert "pgbouncer" not in found


# What PostgreSQL's own library reads in a URL: hosts, ports, user, password, database.
AS_LIBPQ = [
    ("u:p@localhost:5433/db?host=/var/run/postgresql", (["/var/run/postgresql"], [5433], "u", "p", "db")),
    ("u:p@h:5433/db?host=h2", (["h2"], [5433], "u", "p", "db")),
    ("h1:1,h2:2/db?host=h3,h4", (["h3", "h4"], [1, 2], None, None, "db")),
    ("h1,h2:2/db?host=h3,h4", (["h3", "h4"], [5432, 2], None, None, "db")),
    ("h1:1/db?host=h3,h4", (["h3", "h4"], [1, 1], None, None, "db")),
    ("h1:1,h2/db?host=h3,h4&port=7", (["h3", "h4"], [7, 7], None, None, "db")),
    (":12345/db?host=/s", (["/s"], [12345], None, None, "db")),
    (":12345?host=/s", (["/s"], [12345], None, None, None)),
    ("u:p@:5433/db", ([], [5433], "u", "p", "db")),
    (":5433/db", ([], [5433], None, None, "db")),
    ("/db?port=5433", ([], [5433], None, None, "db")),
    ("/db", ([], [], None, None, "db")),
    ("u:p@h:1/db?user=v&password=q&dbname=e&port=9", (["h"], [9], "v", "q", "e")),
    ("u:p@h/db?user=v&user=w", (["h"], [5432], "w", "p", "db")),
    ("u:p@h/db?host=", ([], [], "u", "p", "db")),
    ("db/x?user=u&password=a+b", (["db"], [5432], "u", "a+b", "x")),
    ("db/x?user=u&password=a%2Bb%20c", (["db"], [5432], "u", "a+b c", "x")),
    ("db/x?%75ser=u&", (["db"], [5432], "u", None, "x")),
    ("h/db?host=::1", (["::1"], [5432], None, None, "db")),
    ("/db?host=::1,h2&port=1,2", (["::1", "h2"], [1, 2], None, None, "db")),
    ("%2Fvar%2Frun:5433/db", (["/var/run"], [5433], None, None, "db")),
    ("h1:,h2:2/db", (["h1", "h2"], [5432, 2], None, None, "db")),
]


def as_tuple(url: DatabaseUrl) -> tuple[Any, ...]:
    return list(url.hosts), list(url.ports), url.user, url.password, url.database


class TestReadsLikePostgresqlsOwnLibrary:
    @pytest.mark.parametrize(("rest", "expected"), AS_LIBPQ, ids=[rest for rest, _ in AS_LIBPQ])
    def test_hosts_ports_and_login(self, rest: str, expected: tuple[Any, ...]) -> None:
        assert as_tuple(parse_database_url(f"postgresql://{rest}")) == expected

    @pytest.mark.parametrize("rest", [rest for rest, _ in AS_LIBPQ])
    def test_as_the_installed_one(self, rest: str) -> None:
        found = read_by_libpq(f"postgresql://{rest}")

        assert found is not None
        hosts = found["host"].split(",") if found.get("host") else []
        ports = found["port"].split(",") if "port" in found else [""] * bool(hosts)
        numbers = [int(port or 5432) for port in (ports * len(hosts) if len(ports) < len(hosts) else ports)]
        read = hosts, numbers, found.get("user"), found.get("password"), found.get("dbname")
        assert read == as_tuple(parse_database_url(f"postgresql://{rest}"))

    @given(password=st.text(st.sampled_from("aZ0+ =&%;ü"), min_size=1, max_size=8))
    def test_every_password_as_a_parameter(self, password: str) -> None:
        url = f"postgresql://db/x?user=u&password={quote(password, safe='+;')}"

        assert parse_database_url(url).password == password

    def test_a_port_without_a_host_reaches_the_driver(self) -> None:
        found = arguments("postgresql://u:p@:5433/db")

        assert (found.get("host"), found["port"]) == (None, 5433)

    @pytest.mark.parametrize("port", ["0", "65536", "9" * 5000, "+1", "x", "\u0665"])
    def test_refuses_a_port_that_no_server_has(self, port: str) -> None:
        assert refusal(f"postgresql://db/byok?port={port}") == "the port must be between 1 and 65535"

    @pytest.mark.parametrize("url", ["postgresql://h1:1,h2:2/db?host=h3", "postgresql:///db?port=1,2"])
    def test_refuses_ports_that_do_not_match_the_hosts(self, url: str) -> None:
        assert refusal(url) == "the port must be one for all hosts, or one for each, separated by commas"


class TestHostNames:
    @pytest.mark.parametrize(
        "place",
        [
            ".example.com",
            "a..b",
            f"{'a' * 64}.example.com",
            f"{'ü' * 60}",
            "h%01x",
            "h%20x",
            "h%40x",
            "%2Fa%0A",
        ],
    )
    def test_that_cannot_be_looked_up_are_refused(self, place: str) -> None:
        assert refusal(f"postgresql://u:p@{place}/db").startswith("each host must be a name")
        assert refusal(f"postgresql://u:p@good,{place}/db").startswith("each host must be a name")

    @pytest.mark.parametrize("place", [".example.com", "a..b", "a b", "%2Fa%0A", "%0A"])
    def test_that_cannot_be_looked_up_are_refused_as_parameters(self, place: str) -> None:
        assert refusal(f"postgresql://u:p@h/db?host={place}").startswith("each host must be a name")

    @pytest.mark.parametrize("place", ["db", "db_1", "db.internal.", "bücher.example", "10.0.0.1", "a" * 63])
    def test_that_can_be_looked_up_are_understood(self, place: str) -> None:
        assert parse_database_url(f"postgresql://u:p@{place}/db").hosts == (place,)


class TestSaysHowToFix:
    @pytest.mark.parametrize("text", [" {}", "{}\n", "{} ", '"{}"', "'{}'", "\u00a0{}"])
    def test_white_space_and_quotes_at_the_ends(self, text: str) -> None:
        message = refusal(text.format("postgresql://u:p@db/byok"))

        assert message == "must not begin or end with white space or quotes; remove them"

    @pytest.mark.parametrize(
        "scheme", ["postgresql+psycopg", "postgres+psycopg2", "jdbc:postgresql", "postgresql+psycopg_async"]
    )
    def test_a_driver_in_the_scheme(self, scheme: str) -> None:
        assert refusal(f"{scheme}://u:p@db/byok").endswith(", without the name of a driver")

    @pytest.mark.parametrize("url", ["u:%00@db/byok", "u@db/a%00b", "db/byok?user=a%00"])
    def test_a_zero_byte(self, url: str) -> None:
        assert refusal(f"postgresql://{url}").startswith("contains %00")

    @pytest.mark.parametrize(
        ("parameter", "reason"),
        [
            ("hostaddr=10.0.0.1", "is not supported; set the address as the host"),
            ("connect_timeout=9999999", "must be at most 999999"),
            ("connect_timeout=-1", "must be a whole number"),
            ("options=-c+work_mem%3D8MB", "has + for a blank; write %20"),
            ("options=-cjit%3Doff+-cgeqo%3Doff", "has + for a blank; write %20"),
        ],
    )
    def test_a_parameter(self, parameter: str, reason: str) -> None:
        name = parameter.partition("=")[0]

        assert refusal(f"postgresql://u:p@db/byok?{parameter}") == f"the parameter {name} {reason}"

    def test_a_plus_that_is_part_of_an_option_is_understood(self) -> None:
        options = parse_database_url("postgresql://db/byok?options=-ctimezone%3D+02").arguments["options"]

        assert options == "-ctimezone=+02"


class TestNamesTheParameter:
    @pytest.mark.parametrize(
        "parameter",
        [
            "channel_binding=require",
            "schema=public",
            "pgbouncer=yes",
            "sslmode=bogus",
            "ssl=true",
            "target_session_attrs=leader",
            "connect_timeout=soon",
            "sslrootcert=/etc/ca.pem",
            "sslpassword=x",
            "keepalives=1",
            "pool_timeout=3",
            "something_else=1",
        ],
    )
    def test_that_it_cannot_follow(self, parameter: str) -> None:
        message = refusal(f"postgresql://u:p@db/byok?{parameter}")

        assert message.startswith(f"the parameter {parameter.partition('=')[0]} ")
        assert "\n" not in message


class TestUnencodedPasswords:
    @pytest.mark.parametrize(
        "password",
        ["Str@ng:Passw0rdSecret", "a/b", "a?b", "a#b", "a@b@c", "a/b@c:d", "a?x=1&b", "a?x"],
    )
    def test_are_refused_with_the_advice_to_percent_encode(self, password: str) -> None:
        assert "percent-encode" in refusal(f"postgresql://byok_app:{password}@db.internal/byok")


class TestNeverQuotes:
    @given(
        password=st.text(st.sampled_from(RESERVED + "aZ0"), max_size=6).map(lambda it: f"{it}{CANARY}{it}"),
        form=st.sampled_from(
            [
                "postgresql://u:{}@db/byok",
                "postgresql://u:{}@db:port/byok",
                "postgresql://u:{}",
                "postgresql://{}@db/byok",
                "postgresql://{}/byok",
                "postgresql:///{}",
                "postgresql://u:p@db/byok?sslmode={}",
                "postgresql://u:p@db/byok?options={}&schema=x",
                "postgresql://db?user=u&password={}",
                "postgresql://db?password={}&schema=x",
                "mysql://u:{}@db/byok",
                "{}",
            ]
        ),
        is_encoded=st.booleans(),
    )
    def test_any_part_of_a_url(self, password: str, form: str, is_encoded: bool) -> None:
        url = form.format(quote(password, safe="") if is_encoded else password)
        password_of, message = parsed(url)

        assert CANARY not in message
        if is_encoded and form == "postgresql://u:{}@db/byok":
            assert password_of == password


def parsed(url: str) -> tuple[str | None, str]:
    """The password that was understood, or the message."""
    try:
        return parse_database_url(url).password, ""
    except DatabaseUrlRefused as error:
        return None, str(error)
