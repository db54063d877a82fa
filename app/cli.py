"""The command `byok`: serve, worker, migrate, token, openapi, price-backfill, vault-setup, doctor."""

import asyncio
import json
import os
import re
import signal
import sys
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import click

from app import __version__
from app.admin_commands import migrate_secrets, rewrap_secrets, rotate_root
from app.auth.principal import ROLES, Scope
from app.composition.background import run_jobs
from app.composition.bootstrap import (
    DatabaseAccess,
    database_access,
    embedded_issuer,
    migrate_to,
    open_services,
    prepare_database,
    set_up_vault,
)
from app.core.durations import parse_duration
from app.core.errors import Unavailable
from app.core.organizations import ANY_ORGANIZATION, ORGANIZATION_PATTERN
from app.doctor import examine
from app.main import openapi_document
from app.observability.logs import configure_logging
from app.observability.tracing import configure_tracing, flush_tracing
from app.pricing.backfill import Backfilled, PriceBackfillService
from app.secret_maintenance.progress import OperationRefused
from app.server import serve_forever, wait_for_signal
from app.settings.environment import Settings, SettingsRefused, load_settings, unknown_variables

Result = TypeVar("Result")


@click.group()
@click.version_option(__version__, prog_name="byok")
def main() -> None:
    """Bring your own Anthropic key. Settings are environment variables; see README.md."""
    # Our contexts do not obey it; those that asyncpg and the exporter of traces make by themselves do.
    os.environ.pop("SSLKEYLOGFILE", None)


@main.command()
@click.option("--without-jobs", is_flag=True, help="Only the API; run `byok worker` beside it.")
def serve(*, without_jobs: bool) -> None:
    """Run the API and, unless told otherwise, the background jobs."""
    settings = _settings()

    def run(access: DatabaseAccess) -> None:
        asyncio.run(prepare_database(settings, access))
        serve_forever(settings, access, with_jobs=not without_jobs, ready=lambda: _greet(settings))

    _with_database(settings, run)


@main.command()
def worker() -> None:
    """Run the background jobs alone."""
    settings = _settings()

    async def work(access: DatabaseAccess) -> None:
        await prepare_database(settings, access)
        stop = wait_for_signal()
        async with open_services(settings, access) as services:
            click.echo("Jobs run. Ctrl-C stops them.")
            await run_jobs(services, interval_seconds=settings.jobs.interval.total_seconds(), stop=stop)

    _with_database(settings, lambda access: asyncio.run(work(access)))


@main.command()
@click.option("--to", default="head", show_default=True, help="head, base or a revision.")
def migrate(to: str) -> None:
    """Bring the database's schema up to date, as its owner."""
    settings = _settings()

    revision = _with_database(settings, lambda access: asyncio.run(migrate_to(settings, access, to)))
    click.echo(f"The schema is at {revision or 'base'}. Next: byok serve")


@main.command()
@click.option(
    "--organization", metavar="ORG", help="Bind the token to one organization; '*' for internal services."
)
@click.option("--role", type=click.Choice(sorted(ROLES)), required=True)
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    type=click.Choice([scope.value for scope in Scope]),
    help="A further scope; may be repeated.",
)
@click.option("--ttl", default="1h", show_default=True, help="Such as 30s, 15m, 12h or 7d.")
@click.option(
    "--subject", default="developer", show_default=True, help="Who it is; shown in the audit trail."
)
def token(organization: str | None, role: str, scopes: tuple[str, ...], ttl: str, subject: str) -> None:
    """Print a bearer token signed with the embedded development key."""
    if organization is None:
        if role != "service":
            raise click.UsageError("--organization is needed with this role")
        organization = ANY_ORGANIZATION
    if organization != ANY_ORGANIZATION and not re.fullmatch(ORGANIZATION_PATTERN, organization):
        raise click.UsageError("--organization: 1 to 64 letters, digits, _ or -")
    try:
        lifetime = parse_duration(ttl)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--ttl") from None
    try:
        issuer = embedded_issuer(load_settings())
    except SettingsRefused as error:
        raise _refused(error) from None
    click.echo(
        issuer.issue(
            subject=subject,
            organization_id=organization,
            scopes=sorted({*ROLES[role], *scopes}),
            ttl=lifetime,
        )
    )


@main.command()
@click.option("--check", type=click.Path(path_type=Path), help="Compare with this file instead of printing.")
def openapi(check: Path | None) -> None:
    """Print the OpenAPI document."""
    text = json.dumps(openapi_document(), indent=2, ensure_ascii=False, sort_keys=False) + "\n"
    if check is None:
        click.echo(text, nl=False)
    elif not check.is_file() or check.read_text(encoding="utf-8") != text:
        click.echo(f"{check} is out of date. Next: make openapi, and commit it.", err=True)
        sys.exit(1)


@main.command("price-backfill")
@click.option(
    "--organization", metavar="ORG", help="This organization alone; all of them without this option."
)
@click.option(
    "--with-overrides",
    is_flag=True,
    help="Also price, by the overrides in force now, what had no price at its own instant.",
)
def price_backfill(organization: str | None, *, with_overrides: bool) -> None:
    """Give usage without a cost the price that is known by now. Nothing is rewritten; may be repeated."""
    if organization is not None and not re.fullmatch(ORGANIZATION_PATTERN, organization):
        raise click.UsageError("--organization: 1 to 64 letters, digits, _ or -")
    settings = _settings()

    async def fill(access: DatabaseAccess) -> Sequence[Backfilled]:
        await prepare_database(settings, access)
        async with open_services(settings, access) as services:
            if organization is None:
                return await services[PriceBackfillService].run(
                    with_overrides=with_overrides, progress=_tell_backfilled
                )
            done = await services[PriceBackfillService].run_for(organization, with_overrides=with_overrides)
            _tell_backfilled(done)
            return [done]

    try:
        done = _with_database(settings, lambda access: asyncio.run(fill(access)))
    except Unavailable:
        raise click.ClickException(
            "The database went away. Run it again: it goes on where it stopped."
        ) from None
    click.echo(
        f"{sum(one.priced for one in done)} priced, {sum(one.unpriced for one in done)} still without a price"
    )


def _tell_backfilled(done: Backfilled) -> None:
    click.echo(f"{done.organization_id}: {done.priced} priced, {done.unpriced} still without a price")


@main.command("vault-setup")
def vault_setup() -> None:
    """Create mounts, keys, policies and roles on a Vault server. May be repeated."""
    settings = _settings()
    try:
        roles = asyncio.run(set_up_vault(settings, lambda line: click.echo(f"  {line}")))
    except SettingsRefused as error:
        raise _refused(error) from None
    for role, role_id in roles.items():
        click.echo(f"BYOK_VAULT__ROLES__{role.upper()}__ROLE_ID={role_id}")
    click.echo("Next: fetch a secret id for each role, set BYOK_VAULT__AUTH_METHOD=approle, then byok doctor")


@main.command("rotate-root")
@click.option(
    "--prepare", is_flag=True, help="Only put the next root key into the keyset file, to be copied."
)
def rotate_root_command(*, prepare: bool) -> None:
    """Rotate the embedded store's root key. Instances may run; goes on where a run was stopped."""
    settings = _settings()
    _operate(settings, lambda access: rotate_root(settings, access, _progress, only_prepare=prepare))
    if prepare:
        click.echo("Next: copy the keyset file to every machine that runs an instance, then byok rotate-root")
    else:
        click.echo(
            "Done. Next: back up the keyset file, copy it to every other machine, and destroy older copies: with one of"
            " them an old backup of the database can still be opened"
        )


@main.command("migrate-secrets")
@click.option("--cancel", is_flag=True, help="Stay with the embedded store, after a run that was stopped.")
def migrate_secrets_command(*, cancel: bool) -> None:
    """Move all keys from the embedded store to Vault. No instance may run; goes on where a run was stopped."""
    settings = _settings()
    _operate(settings, lambda access: migrate_secrets(settings, access, _progress, cancel=cancel))
    if cancel:
        click.echo(
            "Cancelled. Copies may rest in Vault until the next byok migrate-secrets. Next: unset BYOK_VAULT__ADDRESS,"
            " then byok serve"
        )
    else:
        click.echo(
            "Done. Next: byok doctor, then byok serve. The keyset file opens old backups alone: see docs/operations.md"
        )


@main.command("rewrap-secrets")
@click.option(
    "--rotate-keys", is_flag=True, help="First give every organization's transit key a new version."
)
def rewrap_secrets_command(*, rotate_keys: bool) -> None:
    """Rewrap all keys in Vault under the newest transit keys. Instances may run; goes on where a run was stopped."""
    settings = _settings()
    _operate(settings, lambda access: rewrap_secrets(settings, access, _progress, rotate_keys=rotate_keys))
    click.echo(
        "Done. Next: nothing; older versions of the transit keys may be retired, see docs/operations.md"
    )


@main.command()
def doctor() -> None:
    """Look at settings, database, secret store, clock and provider, and say how to mend what is wrong."""
    try:
        settings = load_settings()
    except SettingsRefused as error:
        click.echo(f"fail  settings: {error}")
        sys.exit(1)
    configure_logging(level="error", log_format="console")
    is_well = True
    try:
        with database_access(settings) as access:
            for finding in asyncio.run(examine(settings, access, unknown=unknown_variables())):
                click.echo(str(finding))
                is_well = is_well and finding.level != "fail"
    except SettingsRefused as error:
        click.echo(f"fail  database: {error}")
        is_well = False
    click.echo("All is well." if is_well else "Mend what says fail, then run byok doctor again.")
    sys.exit(0 if is_well else 1)


def _settings() -> Settings:
    try:
        settings = load_settings()
    except SettingsRefused as error:
        raise _refused(error) from None
    configure_logging(level="debug" if settings.debug else settings.log_level, log_format=settings.log_format)
    configure_tracing()
    for name in unknown_variables():
        click.echo(f"warning: {name} is no setting of byok; see the table in README.md", err=True)
    return settings


def _with_database(settings: Settings, work: Callable[[DatabaseAccess], Result]) -> Result:
    # Unwinds like Ctrl-C, whatever it interrupts: without this it would leave the embedded PostgreSQL running.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        with database_access(settings) as access, suppress(KeyboardInterrupt):
            return work(access)
    except SettingsRefused as error:
        raise _refused(error) from None
    finally:
        flush_tracing()
    sys.exit(130)


def _operate(settings: Settings, work: Callable[[DatabaseAccess], Coroutine[Any, Any, None]]) -> None:
    try:
        _with_database(settings, lambda access: asyncio.run(work(access)))
    except OperationRefused as error:
        raise click.ClickException(str(error)) from None


def _progress(line: str) -> None:
    click.echo(f"  {line}")


class _Refused(click.ClickException):
    """Ends the command with the one line that says which variable is wrong."""

    exit_code = 2


def _refused(error: SettingsRefused) -> _Refused:
    return _Refused(str(error))


def _greet(settings: Settings) -> None:
    """Where it is and what to try next. The commands can be pasted as they are."""
    url = f"http://{settings.host}:{settings.port}"
    database = (
        "PostgreSQL by BYOK_DATABASE__URL" if settings.database.url is not None else "embedded PostgreSQL"
    )
    store = "embedded secret store" if settings.vault.address is None else "keys in Vault"
    click.echo(f"\nPharaoh BYOK {__version__} at {url}  (API: {url}/docs)")
    click.echo(f"Data in {settings.data_dir.resolve()}: {database}, {store}. Ctrl-C stops everything.")
    if settings.auth.jwks_url is not None:
        return
    byok = Path(sys.argv[0])
    api = f"{url}/v1/organizations/org_acme/provider-credentials"
    click.echo(f"""
Try it in another terminal (set ANTHROPIC_API_KEY first to try a real key):

TOKEN=$({byok} token --role billing-admin --organization org_acme)

curl -sS {api} -H "Authorization: Bearer $TOKEN" -H 'Content-Type: application/json' --data @- <<EOF
{{"label": "Acme production", "api_key": "${{ANTHROPIC_API_KEY:-sk-ant-api03-not-a-real-key-just-to-see-what-happens}}"}}
EOF

curl -sS {api} -H "Authorization: Bearer $TOKEN"

curl -sS {api.replace("provider-credentials", "audit-events")} -H "Authorization: Bearer $TOKEN"
""")


if __name__ == "__main__":
    main()
