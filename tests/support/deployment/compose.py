"""Reads compose.yaml: commands, variables and volumes of its services, as `docker compose` would set them."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from tests.support.documentation import ROOT

_VARIABLE = re.compile(r"\$\{(?P<name>\w+)(?::(?P<kind>[-?])(?P<text>[^}]*))?\}")


@dataclass(frozen=True, kw_only=True)
class ComposeService:
    """One service."""

    entry: Mapping[str, Any]

    @property
    def command(self) -> list[str]:
        return [str(part) for part in self.entry.get("command", ())]

    @property
    def volumes(self) -> dict[str, str]:
        """The paths in the container by the volume's name."""
        pairs = (str(volume).split(":") for volume in self.entry.get("volumes", ()))
        return {pair[0]: pair[1] for pair in pairs}

    def environment(self, given: Mapping[str, str]) -> dict[str, str]:
        """The variables of the container, if `.env` has the given ones."""
        found = {}
        for name, value in self.entry["environment"].items():
            if value is not None:
                found[name] = _interpolated(str(value), given)
            elif name in given:
                found[name] = given[name]
        return found


def compose_services() -> dict[str, ComposeService]:
    """The services of compose.yaml by name."""
    document = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
    return {name: ComposeService(entry=entry) for name, entry in document["services"].items()}


def _interpolated(text: str, given: Mapping[str, str]) -> str:
    def value(found: re.Match[str]) -> str:
        name = found["name"]
        assert found["kind"] != "?" or given.get(name), f"{name} is required"
        return given.get(name) or (found["text"] or "" if found["kind"] == "-" else "")

    return _VARIABLE.sub(value, text)
