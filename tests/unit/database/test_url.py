"""Database URLs: what operators copy from other tools is understood or refused by name, and never quoted."""

from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.database.connections import connect_arguments
from app.database.url import DatabaseUrlRefused, parse_database_url

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
