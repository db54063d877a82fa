"""The checks of `byok doctor`. Each finding states a result and, if something is wrong, how to fix it."""

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import IntFlag
from typing import Literal

from app.composition.bootstrap import check_services
from app.composition.database_access import NOT_A_MEMBER, DatabaseAccess, wrong_encoding
from app.composition.outbound import check_issuer, check_provider
from app.composition.scaling_checks import (
    ScalingResult,
    check_cells,
    check_nodes,
    check_poolers,
    check_replica,
)
from app.core.clock import now
from app.credentials.validation_results import Reason
from app.database.connections import describe_failure
from app.database.migrations import current_revision, newest_revision
from app.database.preflight import (
    DATABASE_ERRORS,
    ENCODING,
    OLDEST_POSTGRESQL,
    accepts_writes,
    database_encoding,
    is_service_member,
    rls_bypasses,
    server_time,
    server_version,
)
from app.egress.issuer_check import IssuerMatch, IssuerReport
from app.settings.environment import SettingsRefused
from app.settings.settings import Settings

MAX_CLOCK_DIFFERENCE = timedelta(seconds=5)

# If one of these fails, the checks that need the database would only repeat it, or say less of it.
_BLOCKING = frozenset({"writes", "schema", "service role", "pooler"})
# A machine without internet has one of these. It does not prove that the installation is wrong.
_NO_INTERNET = {
    Reason.DNS_UNAVAILABLE: "its host name cannot be resolved",
    Reason.UNREACHABLE: "it cannot be reached",
    Reason.TIMEOUT: "it does not respond before the timeout",
    Reason.INTERRUPTED: "the connection was interrupted",
}
# What to do about the codes of the secret store. The codes are those of /readyz.
_STORE_FIXES = {
    "secret_store_unavailable": "check Vault: its address, network and certificate. The embedded store needs its database and keyset",
    "secret_store_timeout": "check the load of the secret store and the network",
    "secret_store_misconfigured": "check BYOK_VAULT__KV_MOUNT and BYOK_VAULT__TRANSIT_MOUNT, and run byok vault-setup",
    "secret_store_permission_denied": "run byok vault-setup, with the same --prefix as before, which writes the policies again",
}


READ_ONLY = (
    "the server accepts no writes: it is a standby, or read-only, for example because its disk is full. Set"
    " BYOK_DATABASE__URL to the primary, or to all servers with target_session_attrs=primary"
)


class Area(IntFlag):
    """What a check is about. The exit status of the command is the sum of the areas that failed."""

    SETTINGS = 1
    DATABASE = 2
    SECRET_STORE = 4
    TOKENS = 8
    PROVIDER = 16


FAILED_SETTINGS = int(Area.SETTINGS)
FAILED_DATABASE = int(Area.DATABASE)


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check, printed as one line."""

    level: Literal["ok", "warn", "fail"]
    subject: str
    text: str
    area: Area = Area.SETTINGS

    def __str__(self) -> str:
        return f"{self.level:<5} {self.subject}: {self.text}"


def exit_status(findings: Sequence[Finding]) -> int:
    """The sum of the areas that failed; 0 if none did."""
    failed = Area(0)
    for finding in findings:
        if finding.level == "fail":
            failed |= finding.area
    return int(failed)


async def run_checks(
    settings: Settings, access: DatabaseAccess, *, unknown: Sequence[str], show: Callable[[str], object]
) -> list[Finding]:
    """Run all checks in order, and show each finding at once.

    If the database does not respond, the checks that need it are left out.
    """
    findings: list[Finding] = []
    async for finding in _all_findings(settings, access, unknown):
        findings.append(finding)
        show(str(finding))
    return findings


async def _all_findings(
    settings: Settings, access: DatabaseAccess, unknown: Sequence[str]
) -> AsyncIterator[Finding]:
    yield _settings(settings, unknown)
    responds = True
    try:
        async for finding in _database(settings, access):
            yield finding
            blocks = finding.subject in _BLOCKING and finding.level == "fail"
            responds = responds and not blocks
    except DATABASE_ERRORS as error:
        responds = False
        variable = "BYOK_DATA_DIR" if settings.database.url is None else "BYOK_DATABASE__URL"
        yield Finding("fail", "database", f"{variable}: {describe_failure(error)}", Area.DATABASE)
    async for finding in _secret_store(settings, access, with_database=responds):
        yield finding
    for finding in _tokens(settings, await check_issuer(settings)):
        yield finding
    yield await _provider(settings)
    if settings.provider.allowed_hosts:
        count = len(settings.provider.allowed_hosts)
        yield Finding(
            "warn",
            "provider",
            f"{count} hosts may resolve to private addresses (BYOK_PROVIDER__ALLOWED_HOSTS)",
        )


async def _secret_store(
    settings: Settings, access: DatabaseAccess, *, with_database: bool
) -> AsyncIterator[Finding]:
    try:
        if settings.vault.address is not None:
            from app.composition.vault_checks import vault_problems  # noqa: PLC0415  # slow to import, and rarely needed

            problems = [problem async for problem in vault_problems(settings)]
            for problem in problems:
                yield Finding("fail", "vault", problem, Area.SECRET_STORE)
            if problems:
                return
            yield Finding("ok", "vault", "every role logs in and has the permissions that can be checked")
        if with_database:
            for name, code in (await check_services(settings, access)).items():
                yield _dependency(name, code)
    except SettingsRefused as error:
        yield Finding("fail", "secret store", str(error), Area.SECRET_STORE)


def _dependency(name: str, code: str | None) -> Finding:
    subject = name.replace("_", " ")
    if code is None:
        return Finding("ok", subject, "encrypts and decrypts" if name == "secret_store" else "responds")
    area = Area.DATABASE if name == "database" else Area.SECRET_STORE
    fix = f"{_STORE_FIXES[code]}; " if code in _STORE_FIXES else ""
    return Finding("fail", subject, f"{code}; {fix}see docs/reference/metrics-and-logs.md", area)


def _tokens(settings: Settings, report: IssuerReport | None) -> list[Finding]:
    if report is None:
        return [Finding("ok", "tokens", "the embedded development key signs them: byok token")]
    findings = [_keys(report), _issuer(report)]
    if report.jwks_uri_matches is False:
        findings.append(
            Finding("warn", "tokens", "BYOK_AUTH__JWKS_URL is not the jwks_uri of the discovery document")
        )
    names = [settings.auth.organization_claim, *settings.auth.scope_claims]
    if names != ["org", "scope"]:
        findings.append(
            Finding(
                "ok", "tokens", "BYOK_AUTH__ORGANIZATION_CLAIM or BYOK_AUTH__SCOPE_CLAIMS names other claims"
            )
        )
    return findings


def _keys(report: IssuerReport) -> Finding:
    if report.keys_problem is not None:
        text = f"no token can be accepted: BYOK_AUTH__JWKS_URL {report.keys_problem}"
        return Finding("fail", "tokens", text, Area.TOKENS)
    plural = "" if report.usable_keys == 1 else "s"
    return Finding("ok", "tokens", f"the JWKS has {report.usable_keys} usable key{plural}")


def _issuer(report: IssuerReport) -> Finding:
    match report.issuer:
        case IssuerMatch.SAME:
            return Finding("ok", "tokens", "BYOK_AUTH__ISSUER is the issuer of the discovery document")
        case IssuerMatch.UNKNOWN:
            return Finding(
                "warn",
                "tokens",
                "BYOK_AUTH__ISSUER was not compared, because no discovery document was found there",
            )
        case IssuerMatch.SLASH:
            why = "differs by the trailing slash from the issuer of the discovery document; add or remove it"
        case IssuerMatch.TEMPLATE:
            why = (
                "leads to a discovery document of many tenants, and each has another issuer; set it and BYOK_AUTH__JWKS_URL to those"
                " of one tenant, with its id in place of `common` or `organizations`"
            )
        case IssuerMatch.DIFFERENT:
            why = "is not the issuer of its discovery document; set it to the value there"
    return Finding("fail", "tokens", f"no token can be accepted: BYOK_AUTH__ISSUER {why}", Area.TOKENS)


def _settings(settings: Settings, unknown: Sequence[str]) -> Finding:
    if unknown:
        return Finding(
            "warn", "settings", f"unknown settings: {', '.join(unknown)}; see docs/reference/settings.md"
        )
    return Finding("ok", "settings", f"{settings.environment}")


async def _database(settings: Settings, access: DatabaseAccess) -> AsyncIterator[Finding]:
    yield await _version(access)
    if not await accepts_writes(access.login.url):
        yield Finding("fail", "writes", READ_ONLY, Area.DATABASE)
    yield await _schema(access)
    if not await is_service_member(access.login.url):
        yield Finding("fail", "service role", NOT_A_MEMBER, Area.DATABASE)
    yield await _row_level_security(access, is_production=settings.is_production)
    yield await _clock(access)
    yield _scaling(await check_cells(access.login))
    async for result in check_nodes(access.login):
        yield _scaling(result)
    if settings.database.url is not None:
        async for result in check_poolers(access.login):
            yield _scaling(result)
    if access.reports is not None:
        yield _scaling(
            await check_replica(access.login, access.reports, is_production=settings.is_production)
        )


async def _version(access: DatabaseAccess) -> Finding:
    version = await server_version(access.login.url)
    if version < OLDEST_POSTGRESQL:
        return Finding("fail", "database", "PostgreSQL 15 or newer is required", Area.DATABASE)
    encoding = await database_encoding(access.login.url)
    if encoding != ENCODING:
        return Finding("fail", "database", wrong_encoding(encoding), Area.DATABASE)
    return Finding("ok", "database", f"PostgreSQL {version // 10000}.{version % 10000}")


async def _schema(access: DatabaseAccess) -> Finding:
    at, needed = await current_revision(access.login.url), newest_revision()
    if at == needed:
        return Finding("ok", "schema", f"at {at}")
    return Finding(
        "fail",
        "schema",
        f"at {at or 'no revision'}, but {needed} is required; run byok migrate",
        Area.DATABASE,
    )


async def _row_level_security(access: DatabaseAccess, *, is_production: bool) -> Finding:
    subject, bypasses = "row-level security", ", ".join(await rls_bypasses(access.login.url))
    if not bypasses:
        return Finding("ok", subject, "the service's login cannot bypass it")
    if is_production:
        return Finding(
            "fail",
            subject,
            f"the login {bypasses}; use a login that is only a member of byok_service",
            Area.DATABASE,
        )
    return Finding(
        "warn",
        subject,
        f"the login {bypasses}; every connection switches to the role byok_service. For production, set"
        " BYOK_DATABASE__URL to a login that is only a member of it, and BYOK_DATABASE__MIGRATION_URL to the owner",
    )


def _scaling(result: ScalingResult) -> Finding:
    return Finding(result.level, result.subject, result.text, Area.DATABASE)


async def _clock(access: DatabaseAccess) -> Finding:
    difference = abs(now() - await server_time(access.login.url))
    if difference <= MAX_CLOCK_DIFFERENCE:
        return Finding("ok", "clock", "agrees with the database's")
    seconds = difference.total_seconds()
    return Finding(
        "fail",
        "clock",
        f"differs from the database's by {seconds:.0f} s; synchronize both clocks with NTP",
        Area.DATABASE,
    )


async def _provider(settings: Settings) -> Finding:
    reason = await check_provider(settings)
    if reason is None:
        return Finding("ok", "provider", "the default endpoint responds")
    if reason in _NO_INTERNET:
        return Finding(
            "warn",
            "provider",
            f"the default endpoint was not checked, because {_NO_INTERNET[reason]} ({reason}); without it, validations"
            " stay indeterminate. Check outgoing HTTPS, DNS and BYOK_PROVIDER__DEFAULT_BASE_URL",
        )
    return Finding(
        "fail",
        "provider",
        f"the default endpoint fails with {reason}; check BYOK_PROVIDER__DEFAULT_BASE_URL and BYOK_PROVIDER__CA_FILE",
        Area.PROVIDER,
    )
