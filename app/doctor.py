"""What `byok doctor` looks at. Each finding says what is so and, where it is wrong, how to mend it."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

from app.composition.bootstrap import DatabaseAccess, check_provider, check_services
from app.core.clock import now
from app.database.migrations import current_revision, newest_revision
from app.database.preflight import (
    DATABASE_ERRORS,
    OLDEST_POSTGRESQL,
    login_powers,
    server_time,
    server_version,
)
from app.settings.environment import Settings, SettingsRefused

TOLERATED_CLOCK_DIFFERENCE = timedelta(seconds=5)


@dataclass(frozen=True, slots=True)
class Finding:
    """One line."""

    level: Literal["ok", "warn", "fail"]
    subject: str
    text: str

    def __str__(self) -> str:
        return f"{self.level:<5} {self.subject}: {self.text}"


async def examine(settings: Settings, access: DatabaseAccess, *, unknown: Sequence[str]) -> list[Finding]:
    """Everything, one after the other; a failure does not hide the next."""
    findings = [_settings(settings, unknown)]
    try:
        findings += [finding async for finding in _database(settings, access)]
    except DATABASE_ERRORS as error:
        mend = (
            "is not set up yet; run byok migrate, or byok serve"
            if settings.database.url is None
            else "check BYOK_DATABASE__URL"
        )
        findings.append(Finding("fail", "database", f"does not answer ({type(error).__name__}); {mend}"))
        return findings
    try:
        for name, trouble in (await check_services(settings, access)).items():
            mend = (
                "answers" if trouble is None else f"{trouble}; see docs/operations.md and the service's log"
            )
            findings.append(Finding("ok" if trouble is None else "fail", name.replace("_", " "), mend))
    except SettingsRefused as error:
        findings.append(Finding("fail", "secret store", str(error)))
    findings.append(await _provider(settings))
    if settings.provider.allowed_hosts:
        exempt = ", ".join(settings.provider.allowed_hosts)
        findings.append(Finding("warn", "provider", f"exempt from the private-address rule: {exempt}"))
    return findings


def _settings(settings: Settings, unknown: Sequence[str]) -> Finding:
    if unknown:
        return Finding(
            "warn", "settings", f"no such settings: {', '.join(unknown)}; see the table in README.md"
        )
    return Finding("ok", "settings", f"{settings.environment}")


async def _database(settings: Settings, access: DatabaseAccess) -> AsyncIterator[Finding]:
    version = await server_version(access.login.url)
    if version < OLDEST_POSTGRESQL:
        yield Finding("fail", "database", "PostgreSQL 15 or newer is needed")
    else:
        yield Finding("ok", "database", f"PostgreSQL {version // 10000}.{version % 10000}")
    at, needed = await current_revision(access.login.url), newest_revision()
    if at == needed:
        yield Finding("ok", "schema", f"at {at}")
    else:
        yield Finding("fail", "schema", f"at {at or 'nothing'}, but {needed} is needed; run byok migrate")
    powers = ", ".join(await login_powers(access.login.url))
    if not powers:
        yield Finding("ok", "row-level security", "the service's login cannot get around it")
    elif settings.is_production:
        yield Finding("fail", "row-level security", f"the login {powers}; use a mere member of byok_service")
    else:
        yield Finding(
            "warn",
            "row-level security",
            f"the login {powers}; every connection steps down to byok_service. For production set"
            " BYOK_DATABASE__URL to a mere member of it and BYOK_DATABASE__MIGRATION_URL to the owner",
        )
    yield await _clock(access)


async def _clock(access: DatabaseAccess) -> Finding:
    difference = abs(now() - await server_time(access.login.url))
    if difference <= TOLERATED_CLOCK_DIFFERENCE:
        return Finding("ok", "clock", "agrees with the database's")
    seconds = difference.total_seconds()
    return Finding("fail", "clock", f"differs from the database's by {seconds:.0f} s; run NTP on both")


async def _provider(settings: Settings) -> Finding:
    reason = await check_provider(settings)
    if reason is None:
        return Finding("ok", "provider", f"{settings.provider.default_base_url} answers")
    return Finding(
        "fail",
        "provider",
        f"{settings.provider.default_base_url}: {reason}; check outgoing HTTPS, DNS and BYOK_PROVIDER__CA_FILE",
    )
