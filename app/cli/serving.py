"""Commands that run until a signal stops them: serve, worker."""

import gc
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from app import __version__
from app.cli.opening import address_of, configured, with_database

if TYPE_CHECKING:
    from app.composition.database_access import DatabaseAccess
    from app.settings.settings import Settings


@click.command()
@click.option("--without-jobs", is_flag=True, help="Run only the API; `byok worker` runs the jobs.")
def serve(*, without_jobs: bool) -> None:
    """Run the API and the background jobs."""
    gc.disable()  # a tenth of a start's time; the server enables it once it is ready
    from app.settings.environment import check_listening_host

    settings = configured()
    check_listening_host(settings)

    import asyncio

    from app.composition.database_access import prepare_database
    from app.server import protect_process, serve_forever

    protect_process(settings)

    def run(access: "DatabaseAccess") -> None:
        asyncio.run(prepare_database(settings, access, click.echo))
        serve_forever(settings, access, with_jobs=not without_jobs, ready=lambda: _print_welcome(settings))

    with_database(settings, run, click.echo)


@click.command()
def worker() -> None:
    """Run only the background jobs.

    With BYOK_METRICS_PORT, serves /metrics and /livez there.
    """
    gc.disable()  # a tenth of a start's time; the server enables it once it is ready
    settings = configured()

    import asyncio

    from app.composition.database_access import prepare_database
    from app.server import protect_process, work_forever

    protect_process(settings)

    def run(access: "DatabaseAccess") -> None:
        asyncio.run(prepare_database(settings, access, click.echo))
        work_forever(
            settings,
            access,
            ready=lambda: click.echo("Background jobs are running. Press Ctrl-C to stop them."),
        )

    with_database(settings, run, click.echo)


def _print_welcome(settings: "Settings") -> None:
    """Print the address and commands to try. The commands can be pasted unchanged."""
    url = address_of(settings)
    database = (
        "PostgreSQL at BYOK_DATABASE__URL" if settings.database.url is not None else "embedded PostgreSQL"
    )
    store = "embedded secret store" if settings.vault.address is None else "secrets in Vault"
    click.echo(f"\nPharaoh BYOK {__version__} at {url}  (API: {url}/docs)")
    click.echo(
        f"Data in {settings.data_dir.resolve()}: {database}, {store}. Press Ctrl-C to stop everything."
    )
    if settings.auth.jwks_url is not None:
        return
    byok = Path(sys.argv[0])
    api = f"{url}/v1/organizations/org_acme/provider-credentials"
    click.echo(f"""
Try it in another terminal. This prints a link to the billing page:

{byok} page

Or with curl. To use a real key, set ANTHROPIC_API_KEY first.

TOKEN=$({byok} token --role billing-admin --organization org_acme)

curl -sS {api} -H "Authorization: Bearer $TOKEN" -H 'Content-Type: application/json' --data @- <<EOF
{{"label": "Acme production", "api_key": "${{ANTHROPIC_API_KEY:-sk-ant-api03-not-a-real-key-just-to-see-what-happens}}"}}
EOF

curl -sS {api} -H "Authorization: Bearer $TOKEN"

curl -sS {api.replace("provider-credentials", "audit-events")} -H "Authorization: Bearer $TOKEN"
""")
