"""Commands for development that sign a token: token, page."""

from collections.abc import Sequence

import click

from app.auth.principal import ROLES, Scope
from app.cli.opening import address_of, configured
from app.cli.options import check_not_reserved, check_organization, lifetime_of
from app.core.organizations import ANY_ORGANIZATION


@click.command()
@click.option(
    "--organization",
    metavar="ORG",
    help="The caller's organization. Required unless the role is service; then the default is '*', all organizations.",
)
@click.option(
    "--role",
    type=click.Choice(sorted(ROLES)),
    help="The role, which determines the scopes. Required without --scope.",
)
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    type=click.Choice([scope.value for scope in Scope]),
    help="An additional scope; may be repeated.",
)
@click.option("--ttl", default="1h", show_default=True, help="The lifetime, such as 30s, 15m, 12h or 7d.")
@click.option(
    "--subject", default="developer", show_default=True, help="The caller's name, as the audit log shows it."
)
@click.option(
    "--relay-model",
    "relay_models",
    multiple=True,
    metavar="MODEL",
    help="Allow only this model in the relay; may be repeated.",
)
@click.option(
    "--relay-endpoint", metavar="ID", help="Record the usage of the relay for this endpoint, and no other."
)
def token(
    *,
    organization: str | None,
    role: str | None,
    scopes: tuple[str, ...],
    ttl: str,
    subject: str,
    relay_models: tuple[str, ...],
    relay_endpoint: str | None,
) -> None:
    """Print a bearer token for development.

    The embedded development key signs it. Not available with an external issuer.
    """
    if role is None and not scopes:
        raise click.UsageError("--role or --scope is required")
    if organization is None:
        if role != "service":
            raise click.UsageError("--organization is required for this role")
        organization = ANY_ORGANIZATION
    if organization != ANY_ORGANIZATION:
        check_organization(organization)
    check_not_reserved(organization)
    lifetime = lifetime_of(ttl)
    from app.composition.development_issuer import embedded_issuer
    from app.settings.environment import load_settings

    issuer = embedded_issuer(load_settings())
    click.echo(
        issuer.issue(
            subject=subject,
            organization_id=organization,
            scopes=sorted({*(ROLES[role] if role is not None else ()), *scopes}),
            ttl=lifetime,
            relay=_relay_claim(relay_models, relay_endpoint),
        )
    )


def _relay_claim(models: Sequence[str], endpoint_id: str | None) -> dict[str, object] | None:
    """The restrictions of a token in the relay; None without any."""
    claim: dict[str, object] = {}
    if models:
        claim["models"] = list(models)
    if endpoint_id is not None:
        claim["endpoint_id"] = endpoint_id
    return claim or None


@click.command()
@click.option(
    "--organization",
    metavar="ORG",
    default="org_acme",
    show_default=True,
    help="The organization to sign in to.",
)
@click.option(
    "--role",
    type=click.Choice([role for role in sorted(ROLES) if role != "service"]),
    default="billing-admin",
    show_default=True,
    help="The role, which determines the scopes.",
)
@click.option(
    "--ttl", default="8h", show_default=True, help="How long the page stays signed in, such as 30m or 8h."
)
@click.option(
    "--subject", default="developer", show_default=True, help="The caller's name, as the audit log shows it."
)
def page(organization: str, role: str, ttl: str, subject: str) -> None:
    """Print a link that opens the billing page, signed in.

    The link works once, and for a minute. Only for development: not available with an external issuer.
    """
    check_organization(organization)
    check_not_reserved(organization)
    lifetime = lifetime_of(ttl)
    from app.settings.environment import SettingsRefused

    settings = configured()

    from app.composition.development_issuer import embedded_issuer
    from app.page.sign_in import issue_code

    if not settings.is_page_enabled:
        raise SettingsRefused.of("PAGE__ENABLED", "the billing page is off, so a link would lead nowhere")
    issuer = embedded_issuer(settings)
    code = issue_code(issuer, subject=subject, organization_id=organization, role=role, ttl=lifetime)
    click.echo(f"{address_of(settings)}/billing#code={code}")
