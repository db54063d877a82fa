"""Loads the settings: environment variables with the prefix BYOK_, grouped by `__`. `.env` is read too.

No secret has a default. An invalid value stops the start with one line that names the variable.
"""

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from app.core.loopback import is_loopback
from app.settings.checks import Purpose, refusals_of
from app.settings.invalid_values import lines_of
from app.settings.settings import Settings
from app.settings.variables import (
    PREFIX,
    EnvFileUnreadable,
    NotJson,
    group_of,
    read_env_file,
    read_settings,
)

_NAME = re.compile(r"[A-Za-z0-9_]+")


class SettingsRefused(Exception):
    """The settings cannot be used. Each line names one variable and explains how to fix it."""

    def __init__(self, *lines: str) -> None:
        super().__init__("\n".join(lines))

    @classmethod
    def of(cls, variable: str, message: str) -> "SettingsRefused":
        """Report one variable, which is named without the prefix."""
        return cls(f"{PREFIX}{variable}: {message}")


def load_settings(purpose: Purpose = Purpose.RUN, /, **overrides: Any) -> Settings:
    """Read and check the settings.

    Args:
        purpose: what they are for.
        overrides: values that come before those of the environment.

    Raises:
        SettingsRefused: one line per invalid variable, which never contains its value.
    """
    try:
        settings = Settings.model_validate(read_settings(Settings, overrides))
    except ValidationError as error:
        raise SettingsRefused(*lines_of(error)) from None
    except NotJson as error:
        raise SettingsRefused.of(
            error.variable.removeprefix(PREFIX),
            f"is not a JSON object; set the settings of this group one by one, as {error.variable}__...",
        ) from None
    except EnvFileUnreadable as error:
        raise _refused_file(error) from None
    if refusals := [*refusals_of(settings, purpose)]:
        raise SettingsRefused(*refusals)
    return settings


def unknown_variables(environ: Mapping[str, str | None] | None = None) -> list[str]:
    """Return the variables with the prefix BYOK_ that are not settings, usually spelling mistakes.

    Only names: whatever else a variable's name holds may be a value.

    Args:
        environ: the variables. None: those of the environment and of `.env`.

    Raises:
        SettingsRefused: `.env` cannot be read.
    """
    if environ is None:
        try:
            environ = {**read_env_file(), **os.environ}
        except EnvFileUnreadable as error:
            raise _refused_file(error) from None
    known = set(_names(Settings))
    free = f"{PREFIX}VAULT__ROLES__"
    tools = (f"{PREFIX}TEST_", f"{PREFIX}BENCH_")
    names = {name.upper() for name in environ if _NAME.fullmatch(name)}
    return sorted(
        n for n in names if n.startswith(PREFIX) and n not in known and not n.startswith((free, *tools))
    )


def _refused_file(error: EnvFileUnreadable) -> SettingsRefused:
    if error.line is None:
        return SettingsRefused(".env: must be a readable file in UTF-8, with one NAME=value per line")
    return SettingsRefused(
        f".env: line {error.line} is not NAME=value; correct it, close its quotes, or begin it with #"
    )


def check_listening_host(settings: Settings) -> None:
    """Refuse to listen beyond loopback in development.

    Raises:
        SettingsRefused
    """
    if settings.is_production or settings.allow_remote_development or is_loopback(settings.host):
        return
    raise SettingsRefused.of(
        "HOST",
        "development listens only on loopback addresses, because its signing key is for development; set"
        f" {PREFIX}ENVIRONMENT=production, or {PREFIX}ALLOW_REMOTE_DEVELOPMENT=true on a trusted network",
    )


def _names(model: type[BaseModel], prefix: str = PREFIX) -> Iterator[str]:
    for name in model.model_fields:
        variable = f"{prefix}{name.upper()}"
        if (group := group_of(model, name)) is not None:
            yield from _names(group, f"{variable}__")
        else:
            yield variable
