"""Commands that show what there is: doctor, openapi."""

import sys
from pathlib import Path

import click


@click.command()
@click.option("--check", type=click.Path(path_type=Path), help="Do not print; fail if this file differs.")
def openapi(check: Path | None) -> None:
    """Print the OpenAPI document."""
    import json

    from app.main import openapi_document

    text = json.dumps(openapi_document(), indent=2, ensure_ascii=False, sort_keys=False) + "\n"
    if check is None:
        click.echo(text, nl=False)
    elif not check.is_file() or check.read_text(encoding="utf-8") != text:
        click.echo(f"{check} is out of date. Next: make openapi, then commit the file", err=True)
        sys.exit(1)


@click.command()
def doctor() -> None:
    """Check the installation and show how to fix it.

    Checks settings, database, row-level security, clock, secret store, tokens and provider. The exit status is the
    sum of what failed: 1 settings, 2 database, 4 secret store, 8 tokens, 16 provider. It is 0 if nothing failed.
    """
    import asyncio

    from app.composition.database_access import database_access
    from app.doctor import FAILED_DATABASE, FAILED_SETTINGS, exit_status, run_checks
    from app.observability.logs import configure_logging
    from app.settings.environment import SettingsRefused, load_settings, unknown_variables

    try:
        settings = load_settings()
    except SettingsRefused as error:
        for line in str(error).splitlines():
            click.echo(f"fail  settings: {line}")
        sys.exit(FAILED_SETTINGS)
    configure_logging(level="error", log_format="console")
    try:
        with database_access(settings) as access:
            findings = asyncio.run(run_checks(settings, access, unknown=unknown_variables(), show=click.echo))
            status = exit_status(findings)
            has_warnings = any(finding.level == "warn" for finding in findings)
    except SettingsRefused as error:
        click.echo(f"fail  database: {error}")
        status, has_warnings = FAILED_DATABASE, False
    if status != 0:
        click.echo("Fix what failed, then run byok doctor again.")
    else:
        click.echo("Nothing failed. Read the warnings." if has_warnings else "All checks passed.")
    sys.exit(status)
