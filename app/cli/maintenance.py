"""Commands that an operator runs once: migrate, price-backfill, rotate-root, migrate-secrets, rewrap-secrets, vault-setup."""

import re
from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any

import click

from app.cli.opening import configured, with_database
from app.cli.options import check_organization

if TYPE_CHECKING:
    from app.composition.database_access import DatabaseAccess
    from app.pricing.backfill import BackfillResult
    from app.settings.settings import Settings


@click.command()
@click.option("--to", default="head", show_default=True, help="The target: head, base or a revision.")
def migrate(to: str) -> None:
    """Migrate the database schema, as the owner of its tables."""
    from app.settings.checks import Purpose

    settings = configured(Purpose.MIGRATE)

    import asyncio

    from app.composition.database_access import migrate_to

    revision = with_database(
        settings, lambda access: asyncio.run(migrate_to(settings, access, to, _print_progress))
    )
    click.echo(f"The schema is at {revision or 'base'}. Next: byok serve")


@click.command("price-backfill")
@click.option("--organization", metavar="ORG", help="Only this organization; the default is all.")
@click.option(
    "--with-overrides",
    is_flag=True,
    help="Also price events that had no price when they started, with the price overrides that are active now.",
)
def price_backfill(organization: str | None, *, with_overrides: bool) -> None:
    """Price usage events that have no cost.

    Appends corrections and changes no existing row. May be repeated.
    """
    if organization is not None:
        check_organization(organization)
    settings = configured()

    import asyncio

    from app.composition.bootstrap import open_services
    from app.composition.database_access import prepare_database
    from app.core.errors import Unavailable
    from app.pricing.backfill import PriceBackfillService

    async def backfill(access: "DatabaseAccess") -> "Sequence[BackfillResult]":
        await prepare_database(settings, access)
        async with open_services(settings, access) as services:
            if organization is None:
                return await services[PriceBackfillService].run(
                    with_overrides=with_overrides, progress=_print_backfill
                )
            result = await services[PriceBackfillService].run_for(organization, with_overrides=with_overrides)
            _print_backfill(result)
            return [result]

    try:
        results = with_database(settings, lambda access: asyncio.run(backfill(access)))
    except Unavailable:
        raise click.ClickException(
            "The database became unavailable. Run the command again; it continues where it stopped."
        ) from None
    click.echo(
        f"{sum(it.priced for it in results)} priced, {sum(it.unpriced for it in results)} still without a price"
    )


def _print_backfill(result: "BackfillResult") -> None:
    click.echo(f"{result.organization_id}: {result.priced} priced, {result.unpriced} still without a price")


@click.command("vault-setup")
@click.option(
    "--prefix",
    default="byok",
    show_default=True,
    help="How the names of policies and AppRole roles begin. Each installation on one server, or in one namespace, needs"
    " another one.",
)
def vault_setup(prefix: str) -> None:
    """Set up a Vault or OpenBao server for the service.

    Creates engines, keys, policies and AppRole roles, and prints the role ids. May be repeated.
    """
    # Vault turns the names of policies into lower case.
    if not re.fullmatch("[a-z0-9][a-z0-9_-]{0,40}", prefix):
        raise click.UsageError("--prefix must be 1 to 41 lower-case letters, digits, _ or -")
    from app.settings.checks import Purpose

    settings = configured(Purpose.SET_UP_VAULT)

    import asyncio

    from app.composition.vault import set_up_vault

    roles = asyncio.run(set_up_vault(settings, _print_progress, prefix=prefix))
    for role, role_id in roles.items():
        click.echo(f"BYOK_VAULT__ROLES__{role.upper()}__ROLE_ID={role_id}")
    click.echo(
        "Next: create a secret id for each role, set BYOK_VAULT__AUTH_METHOD=approle, then byok doctor"
    )


@click.command("rotate-root")
@click.option(
    "--prepare",
    is_flag=True,
    help="Only add the next key-encryption key to the keyset file, which you then copy to every machine.",
)
def rotate_root_command(*, prepare: bool) -> None:
    """Rotate the embedded store's key-encryption key.

    Instances may be running. An interrupted run continues where it stopped.
    """
    settings = configured()

    from app.admin_commands import rotate_root

    _run(settings, lambda access: rotate_root(settings, access, _print_progress, only_prepare=prepare))
    if prepare:
        click.echo("Next: copy the keyset file to every machine that runs an instance, then byok rotate-root")
    else:
        click.echo(
            "Done. Next: back up the keyset file, copy it to every other machine, and destroy its older copies. An older"
            " copy can still decrypt an old backup of the database"
        )


@click.command("migrate-secrets")
@click.option("--cancel", is_flag=True, help="Undo an interrupted run and stay with the embedded store.")
def migrate_secrets_command(*, cancel: bool) -> None:
    """Move all secrets from the embedded store to Vault.

    Moves the keys and the signing secrets of webhooks. No instance may be running. An interrupted run continues where
    it stopped.
    """
    settings = configured()

    from app.admin_commands import migrate_secrets

    _run(settings, lambda access: migrate_secrets(settings, access, _print_progress, cancel=cancel))
    if cancel:
        click.echo(
            "Cancelled. Copies of keys may remain in Vault until the next byok migrate-secrets. Next: unset"
            " BYOK_VAULT__ADDRESS, then byok serve"
        )
    else:
        click.echo(
            "Done. Next: byok doctor, then byok serve. The keyset file now only opens old backups: see docs/how-to/migrate-to-vault.md"
        )


@click.command("rewrap-secrets")
@click.option("--rotate-keys", is_flag=True, help="First rotate the transit key of every organization.")
def rewrap_secrets_command(*, rotate_keys: bool) -> None:
    """Rewrap all secrets in Vault with the newest keys.

    Uses the newest version of each transit key. Instances may be running. An interrupted run continues where it
    stopped.
    """
    settings = configured()

    from app.admin_commands import rewrap_secrets

    _run(settings, lambda access: rewrap_secrets(settings, access, _print_progress, rotate_keys=rotate_keys))
    click.echo(
        "Done. You may now raise min_decryption_version of the transit keys: see docs/how-to/rotate-keys.md"
    )


def _run(settings: "Settings", work: "Callable[[DatabaseAccess], Coroutine[Any, Any, None]]") -> None:
    import asyncio

    with_database(settings, lambda access: asyncio.run(work(access)))


def _print_progress(line: str) -> None:
    click.echo(f"  {line}")
