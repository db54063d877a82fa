"""Settings from environment variables and `.env`. Errors name the variable and never contain its value."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from app.settings.environment import SettingsRefused, load_settings, unknown_variables
from app.settings.settings import Environment, Settings

SECRET = "hunter2"
Load = Callable[..., Settings]


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Load:
    """Load the settings from only these variables, named without the prefix, in an empty directory."""
    monkeypatch.chdir(tmp_path)

    def from_variables(**variables: str) -> Settings:
        for name, value in variables.items():
            monkeypatch.setenv(f"BYOK_{name}", value)
        return load_settings()

    return from_variables


def production(**overrides: Any) -> dict[str, str]:
    """Variables that production accepts."""
    return {
        "ENVIRONMENT": "production",
        "DATABASE__URL": f"postgresql://byok:{SECRET}@db.internal/byok",
        "AUTH__ISSUER": "https://id.example.com",
        "AUTH__JWKS_URL": "https://id.example.com/jwks",
        "SECRET_STORE__ALLOW_EMBEDDED": "true",
    } | overrides


def refused(load: Load, **variables: str) -> list[str]:
    with pytest.raises(SettingsRefused) as error:
        load(**variables)
    return str(error.value).splitlines()


class TestDefaults:
    def test_use_embedded_components_in_development(self, load: Load) -> None:
        settings = load()

        assert settings.environment is Environment.DEVELOPMENT
        assert (settings.host, settings.port) == ("127.0.0.1", 8000)
        assert (settings.database.url, settings.auth.jwks_url, settings.vault.address) == (None, None, None)
        assert settings.messages_url == "https://api.anthropic.com/v1/messages"

    def test_contain_no_secret(self, load: Load) -> None:
        vault = load().vault

        assert (vault.token, vault.secret_id) == (None, None)


class TestReading:
    def test_groups_settings_by_two_underscores(self, load: Load) -> None:
        settings = load(RATE_LIMITS__CREDENTIAL_WRITES="7", AUTH__AUDIENCE="billing")

        assert settings.rate_limits.credential_writes == 7
        assert settings.rate_limits.url_checks == 30
        assert settings.auth.audience == "billing"

    @pytest.mark.parametrize(
        ("text", "duration"),
        [("30s", timedelta(seconds=30)), ("15m", timedelta(minutes=15)), ("7d", timedelta(days=7))],
    )
    def test_parses_durations(self, load: Load, text: str, duration: timedelta) -> None:
        assert load(ROTATION__RETENTION=text).rotation.retention == duration

    def test_splits_lists_at_commas(self, load: Load) -> None:
        settings = load(
            CORS__ALLOWED_ORIGINS="https://a.example, https://b.example,", PROVIDER__ALLOWED_HOSTS=""
        )

        assert settings.cors.allowed_origins == ["https://a.example", "https://b.example"]
        assert settings.provider.allowed_hosts == []

    @pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+asyncpg"])
    def test_accepts_database_urls_of_other_tools(self, load: Load, scheme: str) -> None:
        url = load(DATABASE__URL=f"{scheme}://byok@db:6432/byok?sslmode=require").database.url

        assert url is not None
        assert url.for_sqlalchemy().render_as_string() == "postgresql+asyncpg://byok@db:6432/byok?ssl=require"

    def test_parses_message_patterns_as_json(self, load: Load) -> None:
        settings = load(
            PROVIDER__MESSAGE_PATTERNS='{"spend_cap": ["cap", "over"], "billing_problem": "credit"}'
        )

        assert settings.provider.message_patterns == {
            "spend_cap": ["cap", "over"],
            "billing_problem": ["credit"],
        }

    def test_parses_message_patterns_of_a_host(self, load: Load) -> None:
        settings = load(
            PROVIDER__MESSAGE_PATTERNS='{"billing_codes": ["E1"], "hosts": {"LLM.example.com":'
            ' {"billing_problem": "leer", "billing_codes": ["E42", "7"]}}}'
        )

        assert settings.provider.message_patterns == {
            "billing_codes": ["e1"],
            "hosts": {"llm.example.com": {"billing_problem": ["leer"], "billing_codes": ["e42", "7"]}},
        }

    @pytest.mark.parametrize(
        ("variable", "value"),
        [
            ("DATABASE__TIMEOUT", "1s"),
            ("JOBS__INTERVAL", "1s"),
            ("AUTH__CLOCK_SKEW", "0s"),
            ("AUTH__CLOCK_SKEW", "5m"),
            ("ROTATION__RETENTION", "0s"),
            ("USAGE__RETENTION", "3660d"),
            ("VALIDATION__EVERY", "off"),
            ("HOST", "::1"),
            ("HOST", "bücher.example"),
            ("DATABASE__URL", "postgresql://db:65535/byok"),
        ],
    )
    def test_accepts_boundary_values(self, load: Load, variable: str, value: str) -> None:
        load(**{variable: value})

    def test_accepts_a_provider_on_loopback(self, load: Load) -> None:
        settings = load(PROVIDER__DEFAULT_BASE_URL="http://127.0.0.1:9000/")

        assert settings.messages_url == "http://127.0.0.1:9000/v1/messages"

    @pytest.mark.parametrize(
        "path", ["", "/", "/v1", "/v1/", "//v1//", "/v1/messages", "/v1/messages/", "//v1//messages"]
    )
    def test_normalizes_the_default_base_url_like_a_customers(self, load: Load, path: str) -> None:
        for base in ("https://api.anthropic.com", "https://gw.internal:8443/a/b", "http://127.0.0.1:9000"):
            settings = load(PROVIDER__DEFAULT_BASE_URL=base + path)

            assert settings.provider.default_base_url == base
            assert settings.messages_url == f"{base}/v1/messages"

    @pytest.mark.parametrize(
        "origin",
        [
            "https://app.example.com",
            "http://localhost:3000",
            "https://[2001:db8::1]:8443",
            "https://xn--bcher-kva.example",
        ],
    )
    def test_accepts_origins_as_browsers_send_them(self, load: Load, origin: str) -> None:
        settings = load(CORS__ALLOWED_ORIGINS=origin, PAGE__FRAME_ANCESTORS=origin)

        assert settings.cors.allowed_origins == settings.page.frame_ancestors == [origin]

    def test_accepts_a_wildcard_for_the_parents_of_the_page(self, load: Load) -> None:
        assert load(PAGE__FRAME_ANCESTORS="https://*.example.com").page.frame_ancestors == [
            "https://*.example.com"
        ]

    def test_accepts_a_jwks_url_with_a_query(self, load: Load) -> None:
        url = "https://login.example.com/keys?appid=1"

        assert load(AUTH__ISSUER="x", AUTH__JWKS_URL=url).auth.jwks_url == url

    @pytest.mark.parametrize("server", ["192.0.2.1", "192.0.2.1:5353", "2001:db8::1", "[2001:db8::1]:53"])
    def test_accepts_name_servers(self, load: Load, server: str) -> None:
        assert load(DNS__NAMESERVERS=f"{server}, 192.0.2.2").dns.nameservers == [server, "192.0.2.2"]

    @pytest.mark.parametrize("path", ["", "/", "/v1", "/v1/"])
    def test_normalizes_the_vault_address(self, load: Load, path: str) -> None:
        for base in ("https://vault.example.com:8200", "https://example.com/vault"):
            assert load(VAULT__ADDRESS=base + path).vault.address == base

    @pytest.mark.parametrize("path", ["team/byok", "/team/byok", "team/byok/", "//team/byok//"])
    def test_normalizes_paths_in_vault(self, load: Load, path: str) -> None:
        vault = load(VAULT__KV_MOUNT=path, VAULT__TRANSIT_MOUNT=path, VAULT__NAMESPACE=path).vault

        assert (vault.kv_mount, vault.transit_mount, vault.namespace) == ("team/byok",) * 3

    @pytest.mark.parametrize("namespace", ["", "/"])
    def test_takes_the_root_namespace_for_none(self, load: Load, namespace: str) -> None:
        assert not load(VAULT__NAMESPACE=namespace).vault.namespace

    def test_prefers_the_environment_to_dot_env(self, load: Load, tmp_path: Path) -> None:
        (tmp_path / ".env").write_text("BYOK_PORT=9001\nBYOK_AUTH__AUDIENCE=from-file\nOTHER=x\n")

        settings = load(PORT="9002")

        assert (settings.port, settings.auth.audience) == (9002, "from-file")


class TestRefusals:
    @pytest.mark.parametrize(
        ("variable", "value"),
        [
            ("PORT", f"80{SECRET}"),
            ("PORT", "0"),
            ("PORT", "65536"),
            ("ENVIRONMENT", f"staging-{SECRET}"),
            ("DEBUG", SECRET),
            ("LOG_LEVEL", SECRET),
            ("LOG_FORMAT", SECRET),
            ("DATABASE__URL", f"mysql://byok:{SECRET}@db/byok"),
            ("DATABASE__URL", SECRET),
            ("DATABASE__URL", f"postgresql://byok:{SECRET}@db:port/byok"),
            ("DATABASE__POOL_SIZE", "0"),
            ("DATABASE__TIMEOUT", f"5 {SECRET}"),
            ("DATABASE__MIGRATION_URL", f"sqlite:///{SECRET}"),
            ("JOBS__INTERVAL", "soon"),
            ("ROTATION__RETENTION", "-1h"),
            ("RATE_LIMITS__CREDENTIAL_WRITES", "0"),
            ("PROVIDER__DEFAULT_BASE_URL", f"http://{SECRET}.example.com"),
            ("PROVIDER__DEFAULT_BASE_URL", f"https://user:{SECRET}@example.com"),
            ("PROVIDER__DEFAULT_BASE_URL", f"https://example.com/?key={SECRET}"),
            ("PROVIDER__DEFAULT_BASE_URL", "ftp://example.com"),
            ("PROVIDER__DEFAULT_BASE_URL", "https://[::1"),
            ("PROVIDER__DEFAULT_BASE_URL", ""),
            ("PROVIDER__CA_FILE", f"/no/such/{SECRET}"),
            ("VAULT__AUTH_METHOD", SECRET),
            ("VAULT__CA_FILE", "/no/such/file"),
            ("VAULT__ADDRESS", f"ftp://{SECRET}.example.com"),
            ("VAULT__ADDRESS", "https://"),
            ("VAULT__ADDRESS", f"https://vault.example.com/ui/{SECRET}"),
            ("VAULT__ADDRESS", f"https://vault.example.com:8200/v1/secret/{SECRET}"),
            ("VAULT__ADDRESS", f"https://user:{SECRET}@vault.example.com"),
            ("VAULT__ADDRESS", f"https://vault.example.com/?{SECRET}"),
            ("VAULT__ADDRESS", f"https://vault.example.com/#/{SECRET}"),
            ("VAULT__ADDRESS", f"https://vault.example.com {SECRET}"),
            ("PROVIDER__DEFAULT_BASE_URL", f"https://:{SECRET}@example.com"),
            ("PROVIDER__DEFAULT_BASE_URL", f"https://example.com/{SECRET}/v1/models"),
            ("PROVIDER__DEFAULT_BASE_URL", f"https://example.com/{SECRET}/chat/completions"),
            ("PROVIDER__DEFAULT_BASE_URL", "https://example.com/V1/Messages"),
            ("PROVIDER__DEFAULT_BASE_URL", "https://example.com/?"),
            ("PROVIDER__DEFAULT_BASE_URL", "https://example.com/#"),
            ("PROVIDER__DEFAULT_BASE_URL", f"https://example.com/{SECRET} "),
            ("VAULT__ADDRESS", f"https://{SECRET}.example.com:99999"),
            ("VAULT", f'{{"token": "{SECRET}'),
            ("VAULT__ROLES", SECRET),
            ("VAULT__KV_MOUNT", ""),
            ("VAULT__KV_MOUNT", "/"),
            ("VAULT__KV_MOUNT", f"{SECRET} "),
            ("VAULT__TRANSIT_MOUNT", f"{SECRET}/*"),
            ("VAULT__TRANSIT_MOUNT", f"a//{SECRET}"),
            ("VAULT__NAMESPACE", f"{SECRET}\n"),
            ("VAULT__TOKEN", f"{SECRET}\n"),
            ("VAULT__TOKEN", f"{SECRET}\u200b"),
            ("VAULT__ROLE_ID", f"{SECRET}\r"),
            ("VAULT__SECRET_ID", f"{SECRET}\n"),
            ("VAULT__ROLE", f" {SECRET}"),
            ("DATABASE", f"postgresql://byok:{SECRET}@db/byok"),
            ("DATABASE__URL", f"postgresql://byok:{SECRET}@db:99999/byok"),
            ("DATABASE__URL", f"postgresql://byok:{SECRET}@db:0/byok"),
            ("DATABASE__TIMEOUT", "0s"),
            ("DATABASE__TIMEOUT", "61m"),
            ("PROVIDER__MESSAGE_PATTERNS", SECRET),
            ("PROVIDER__MESSAGE_PATTERNS", f'["{SECRET}"]'),
            ("PROVIDER__MESSAGE_PATTERNS", f'{{"{SECRET}": ["x"]}}'),
            ("PROVIDER__MESSAGE_PATTERNS", "[" * 100_000),
            ("PROVIDER__MESSAGE_PATTERNS", f'{{"hosts": "{SECRET}"}}'),
            ("PROVIDER__MESSAGE_PATTERNS", f'{{"hosts": {{"{SECRET}_": {{"billing_problem": "x"}}}}}}'),
            ("PROVIDER__MESSAGE_PATTERNS", f'{{"hosts": {{"a.example.com": {{"{SECRET}": "x"}}}}}}'),
            ("PROVIDER__DEFAULT_BASE_URL", "https://example.com:99999"),
            ("CORS__ALLOWED_ORIGINS", "*"),
            ("CORS__ALLOWED_ORIGINS", "foo"),
            ("CORS__ALLOWED_ORIGINS", "https://app.example.com/"),
            ("CORS__ALLOWED_ORIGINS", "https://App.example.com"),
            ("CORS__ALLOWED_ORIGINS", "https://user@app.example.com"),
            ("CORS__ALLOWED_ORIGINS", "https://app.example.com:443"),
            ("CORS__ALLOWED_ORIGINS", "http://app.example.com:80"),
            ("CORS__ALLOWED_ORIGINS", "https://app.example.com:08443"),
            ("CORS__ALLOWED_ORIGINS", "https://*.example.com"),
            ("CORS__ALLOWED_ORIGINS", "https://bücher.example"),
            ("CORS__ALLOWED_ORIGINS", "https://[2001:DB8::1]"),
            ("PAGE__FRAME_ANCESTORS", "https://*.example.com:443"),
            ("PAGE__FRAME_ANCESTORS", "https://*"),
            ("DNS__NAT64_PREFIXES", "64:ff9b:1::/48"),
            ("DNS__NAT64_PREFIXES", "64:ff9b::/96,64:ff9b:1:2::/64"),
            ("DNS__NAT64_PREFIXES", "64:ff9b::1/96"),
            ("AUTH__SCOPE_CLAIMS", "scope scp"),
            ("AUTH__AUDIENCE", "byok "),
            ("AUTH__ORGANIZATION_CLAIM", "\u200borg"),
            ("HOST", "127.0.0.1:8000"),
            ("HOST", "http://127.0.0.1"),
            ("HOST", "[::1]"),
            ("HOST", "a b"),
            ("HOST", ""),
            ("HOST", f"{SECRET}.{'ü' * 64}"),
            ("JOBS__INTERVAL", "0s"),
            ("JOBS__INTERVAL", "2h"),
            ("AUTH__AUDIENCE", ""),
            ("AUTH__CLOCK_SKEW", "6m"),
            ("ROTATION__RETENTION", "367d"),
            ("VALIDATION__EVERY", "999999999d"),
            ("USAGE__RETENTION", "999999999d"),
            ("RATE_LIMITS__URL_CHECKS", "99999999999999999999"),
        ],
    )
    def test_name_the_variable_and_not_its_value(self, load: Load, variable: str, value: str) -> None:
        lines = refused(load, **{variable: value})

        assert [line.partition(":")[0] for line in lines] == [f"BYOK_{variable}"]
        assert SECRET not in lines[0]

    def test_name_a_variable_in_dot_env_that_is_not_json(self, load: Load, tmp_path: Path) -> None:
        (tmp_path / ".env").write_text(f"BYOK_PROVIDER__MESSAGE_PATTERNS={SECRET}\n")

        assert refused(load) == ["BYOK_PROVIDER__MESSAGE_PATTERNS: must be JSON"]

    @pytest.mark.parametrize(
        ("text", "line"),
        [
            ("BYOK_PORT: 9001\n", 1),
            (f"BYOK_VAULT__TOKEN:{SECRET}\n", 1),
            (f"BYOK_DATABASE__URL:postgresql://u:{SECRET}@db/byok?sslmode=require\n", 1),
            ("OTHER\nBYOK_SECRET_STORE__ALLOW_EMBEDDED\n", 2),
            ("# port\n\n\nBYOK_PORT 9001\nBYOK_DEBUG=true\n", 4),
            (f"BYOK_PORT=9001\r\nBYOK_VAULT__TOKEN='{SECRET}\r\nBYOK_DEBUG=true\r\n", 2),
        ],
    )
    def test_name_a_line_of_dot_env_that_would_be_left_out(
        self, load: Load, tmp_path: Path, text: str, line: int
    ) -> None:
        (tmp_path / ".env").write_bytes(text.encode())

        assert refused(load) == [
            f".env: line {line} is not NAME=value; correct it, close its quotes, or begin it with #"
        ]

    def test_have_one_line_for_each_invalid_variable(self, load: Load) -> None:
        lines = refused(load, PORT="x", LOG_LEVEL="x", DATABASE__URL="x")

        assert sorted(line.partition(":")[0] for line in lines) == [
            "BYOK_DATABASE__URL",
            "BYOK_LOG_LEVEL",
            "BYOK_PORT",
        ]

    @pytest.mark.parametrize("variable", ["DATABASE__URL", "DATABASE"])
    def test_hide_the_value_in_the_exception_chain(self, load: Load, variable: str) -> None:
        with pytest.raises(SettingsRefused) as error:
            load(**{variable: f"mysql://byok:{SECRET}@db/byok"})

        assert error.value.__cause__ is None
        assert error.value.__suppress_context__

    @pytest.mark.parametrize(("given", "missing"), [("ISSUER", "JWKS_URL"), ("JWKS_URL", "ISSUER")])
    def test_require_issuer_and_jwks_url_together(self, load: Load, given: str, missing: str) -> None:
        lines = refused(load, **{f"AUTH__{given}": "https://id.example.com"})

        assert [line.partition(":")[0] for line in lines] == [f"BYOK_AUTH__{missing}"]

    def test_require_https_for_the_jwks_url(self, load: Load) -> None:
        lines = refused(load, AUTH__ISSUER="x", AUTH__JWKS_URL="http://id.example.com/jwks")

        assert lines == ["BYOK_AUTH__JWKS_URL: must be https"]

    def test_require_a_url_for_the_jwks_url(self, load: Load) -> None:
        lines = refused(load, AUTH__ISSUER="x", AUTH__JWKS_URL="http://[::1")

        assert [line.partition(":")[0] for line in lines] == ["BYOK_AUTH__JWKS_URL"]

    @pytest.mark.parametrize("issuer", [" https://id.example.com", "https://id.example.com\n", "x\u00a0"])
    def test_say_that_white_space_around_an_issuer_matters(self, load: Load, issuer: str) -> None:
        lines = refused(load, AUTH__ISSUER=issuer, AUTH__JWKS_URL="https://id.example.com/jwks")

        assert lines == [
            "BYOK_AUTH__ISSUER: must not begin or end with white space; it is compared with tokens as it is"
        ]

    @pytest.mark.parametrize("issuer", ["https://[x", "urn:acme", "https://id.example.com; script-src"])
    def test_require_a_url_for_the_issuer_at_which_the_page_signs_in(self, load: Load, issuer: str) -> None:
        accepted = {"AUTH__ISSUER": issuer, "AUTH__JWKS_URL": "https://id.example.com/jwks"}
        assert load(**accepted).auth.issuer == issuer

        (line,) = refused(load, **accepted, PAGE__CLIENT_ID="byok-page")

        assert line.startswith("BYOK_AUTH__ISSUER: must be a URL such as https://id.example.com")

    @pytest.mark.parametrize(
        "patterns", ['{"billing_problems": ["x"]}', '{"hosts": {"a.example.com": {"spend_cap": ["x"]}}}']
    )
    def test_list_the_names_of_message_patterns(self, load: Load, patterns: str) -> None:
        (line,) = refused(load, PROVIDER__MESSAGE_PATTERNS=patterns)

        assert line == (
            "BYOK_PROVIDER__MESSAGE_PATTERNS: contains a name that is not known; the names are cors_refused,"
            " billing_problem, billing_codes, spend_cap, organization_disabled, workspace_required, model_missing, hosts,"
            " and below a host billing_problem, billing_codes"
        )

    @pytest.mark.parametrize(
        ("url", "reason"),
        [
            (f"https://user:{SECRET}@id.example.com/jwks", "without credentials"),
            (f"https://id.example.com/jwks#{SECRET}", "without a fragment"),
            (
                f"https://id.example.com/{SECRET}/jwks ",
                "without white space, quotes and invisible characters",
            ),
            ("https://xn--a.example.com/jwks", "with a host name or an IP address"),
        ],
    )
    def test_say_what_is_wrong_with_the_jwks_url(self, load: Load, url: str, reason: str) -> None:
        (line,) = refused(load, AUTH__ISSUER="x", AUTH__JWKS_URL=url)

        assert line == f"BYOK_AUTH__JWKS_URL: must be a URL such as https://id.example.com/jwks, {reason}"

    @pytest.mark.parametrize("other", ["MIGRATION_URL", "DIRECT_URL", "REPORTS_URL"])
    def test_require_the_service_login_with_any_other_login(self, load: Load, other: str) -> None:
        (line,) = refused(load, **{f"DATABASE__{other}": "postgresql://owner@db/byok"})

        assert line == f"BYOK_DATABASE__URL: required if BYOK_DATABASE__{other} is set"

    def test_require_a_direct_login_behind_a_pooler(self, load: Load) -> None:
        (line,) = refused(load, DATABASE__URL="postgresql://app@pooler:6432/byok?pgbouncer=true")

        assert line.startswith("BYOK_DATABASE__DIRECT_URL: required if BYOK_DATABASE__URL has pgbouncer=true")

    @pytest.mark.parametrize("name", ["MIGRATION_URL", "DIRECT_URL"])
    def test_require_these_logins_to_lead_to_the_server_itself(self, load: Load, name: str) -> None:
        pooled = "postgresql://app@pooler:6432/byok?pgbouncer=true"

        (line,) = refused(load, DATABASE__URL="postgresql://app@db/byok", **{f"DATABASE__{name}": pooled})

        assert line == f"BYOK_DATABASE__{name}: must lead to the server itself, without pgbouncer=true"


class TestProduction:
    def test_accepts_complete_settings(self, load: Load) -> None:
        assert load(**production()).is_production

    @pytest.mark.parametrize(
        ("changed", "variable"),
        [
            ({"DEBUG": "true"}, "DEBUG"),
            ({"LOG_LEVEL": "debug"}, "LOG_LEVEL"),
            ({"SECRET_STORE__ALLOW_EMBEDDED": "false"}, "SECRET_STORE__ALLOW_EMBEDDED"),
            ({"PROVIDER__DEFAULT_BASE_URL": "http://127.0.0.1:9000"}, "PROVIDER__DEFAULT_BASE_URL"),
            ({"AUTH__JWKS_URL": "http://127.0.0.1:9000/jwks"}, "AUTH__JWKS_URL"),
        ],
    )
    def test_refuses_development_settings(self, load: Load, changed: dict[str, str], variable: str) -> None:
        lines = refused(load, **production(**changed))

        assert [line.partition(":")[0] for line in lines] == [f"BYOK_{variable}"]

    @pytest.mark.parametrize(
        ("omitted", "variable"),
        [
            (("DATABASE__URL",), "DATABASE__URL"),
            (("AUTH__ISSUER", "AUTH__JWKS_URL"), "AUTH__JWKS_URL"),
            (("SECRET_STORE__ALLOW_EMBEDDED",), "SECRET_STORE__ALLOW_EMBEDDED"),
        ],
    )
    def test_refuses_embedded_components(self, load: Load, omitted: tuple[str, ...], variable: str) -> None:
        variables = {name: value for name, value in production().items() if name not in omitted}

        lines = refused(load, **variables)

        assert [line.partition(":")[0] for line in lines] == [f"BYOK_{variable}"]


class TestUnknownVariables:
    def test_are_reported(self) -> None:
        environ = {"BYOK_PROT": "1", "BYOK_DATABASE__URI": "x", "byok_debgu": "x"}

        assert unknown_variables(environ) == ["BYOK_DATABASE__URI", "BYOK_DEBGU", "BYOK_PROT"]

    def test_are_only_names(self) -> None:
        """What else a variable is called by may be a value."""
        assert unknown_variables({f"BYOK_VAULT__TOKEN:{SECRET}": "x", "BYOK_PROT": "1"}) == ["BYOK_PROT"]

    def test_are_also_those_of_dot_env(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """A misspelled BYOK_ENVIRONMENT would start a production as development."""
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("BYOK_PROT", "1")
        (tmp_path / ".env").write_text("BYOK_ENVIROMENT=production\nBYOK_PROT=2\nBYOK_PORT=3\nOTHER=4\n")

        assert unknown_variables() == ["BYOK_ENVIROMENT", "BYOK_PROT"]

    def test_exclude_settings_role_logins_and_other_prefixes(self) -> None:
        environ = dict.fromkeys(
            (
                *("BYOK_PORT", "byok_port", "BYOK_DATABASE__MIGRATION_URL", "BYOK_JOBS__INTERVAL"),
                *(
                    "BYOK_VAULT__ROLES__WRITER__TOKEN",
                    "BYOK_TEST_DATABASE_URL",
                    "BYOK_BENCH_ROWS",
                    "PORT",
                    "XBYOK_PORT",
                ),
            ),
            "",
        )

        assert unknown_variables(environ) == []

    def test_exclude_every_documented_setting(self) -> None:
        contract = """
            ENVIRONMENT HOST PORT DATA_DIR DATABASE__URL DATABASE__MIGRATION_URL
            VAULT__ADDRESS VAULT__NAMESPACE VAULT__CA_FILE VAULT__KV_MOUNT VAULT__TRANSIT_MOUNT VAULT__AUTH_METHOD
            VAULT__TOKEN VAULT__ROLE_ID VAULT__SECRET_ID VAULT__ROLE VAULT__JWT_FILE
            AUTH__ISSUER AUTH__AUDIENCE AUTH__JWKS_URL PROVIDER__DEFAULT_BASE_URL PROVIDER__CA_FILE
            PROVIDER__ALLOWED_HOSTS DNS__NAMESERVERS CORS__ALLOWED_ORIGINS SECRET_STORE__ALLOW_EMBEDDED
            ROTATION__RETENTION
        """

        assert unknown_variables({f"BYOK_{name}": "" for name in contract.split()}) == []
