"""Checks of options that several commands have."""

import re
from datetime import timedelta

import click

from app.core.durations import parse_duration
from app.core.organizations import ORGANIZATION_PATTERN, is_reserved


def check_organization(organization: str) -> None:
    if not re.fullmatch(ORGANIZATION_PATTERN, organization):
        raise click.UsageError("--organization must be 1 to 64 letters, digits, _ or -")


def check_not_reserved(organization: str) -> None:
    if is_reserved(organization):
        raise click.UsageError(
            "--organization must not begin with _: those organizations are reserved, and no token can be bound to one"
        )


def lifetime_of(ttl: str) -> timedelta:
    try:
        return parse_duration(ttl)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--ttl") from None
