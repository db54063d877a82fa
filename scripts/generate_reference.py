"""Writes docs/reference/{api,settings,cli,errors}.md from the OpenAPI document, the settings, the command line and the errors.

Usage: scripts/generate_reference.py [--check]. With --check nothing is written, and a page that differs exits with 1.
"""

import ast
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from inspect import cleandoc
from pathlib import Path
from typing import Any

import click
from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from app.api.field_errors import FIELD_ERRORS, INVALID
from app.cli import main as command_line
from app.core.keys.pasted_key import KEY_CHECKS
from app.main import openapi_document
from app.settings.settings import Settings
from app.settings.variables import PREFIX

REFERENCE = Path(__file__).parents[1] / "docs" / "reference"
APP = Path(__file__).parents[1] / "app"
RAISING = {"InvalidInput.of", "InvalidInput.invalid_field", "KeyRefused"}
METHODS = ("get", "post", "put", "patch", "delete")


def page(title: str, source: str, *parts: str) -> str:
    note = f"Generated from {source} by `make reference`. Do not edit this page by hand."
    return "\n\n".join([f"# {title}", note, *parts]) + "\n"


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    def line(cells: Iterable[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"

    names = list(head)
    return "\n".join([line(names), "|" + "---|" * len(names), *map(line, rows)])


# --- API ---------------------------------------------------------------------------------------------------------


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in document["paths"].items():
        for method in METHODS:
            if method in item:
                yield method.upper(), path, item[method]


def parameters(operation: dict[str, Any]) -> str:
    rows = [
        (f"`{one['name']}`", one["in"], "yes" if one.get("required") else "no", one.get("description", ""))
        for one in operation.get("parameters", [])
    ]
    return table(("parameter", "in", "required", "meaning"), rows) if rows else ""


def body(operation: dict[str, Any]) -> str:
    media = operation.get("requestBody", {}).get("content", {})
    named = [
        f"`{kind}`"
        + (f": `{content['schema']['$ref'].rpartition('/')[2]}`" if "$ref" in content["schema"] else "")
        for kind, content in media.items()
    ]
    return f"Body: {', '.join(named)}." if named else ""


def responses(operation: dict[str, Any]) -> str:
    rows = []
    for status, response in operation["responses"].items():
        headers = ", ".join(f"`{name}`" for name in response.get("headers", {}) if name != "X-Request-Id")
        rows.append((status, response["description"], headers))
    return table(("status", "response", "headers"), rows)


def api() -> str:
    document = openapi_document()
    by_tag: dict[str, list[str]] = defaultdict(list)
    for method, path, operation in operations(document):
        parts = [
            f"### {operation['summary']}",
            f"`{method} {path}` (operation `{operation['operationId']}`)",
            operation.get("description", ""),
            body(operation),
            parameters(operation),
            responses(operation),
        ]
        by_tag[operation["tags"][0]].append("\n\n".join(part for part in parts if part))
    sections = [
        f"## {tag['name']}\n\n{tag.get('description', '')}\n\n" + "\n\n".join(by_tag[tag["name"]])
        for tag in document["tags"]
    ]
    intro = document["info"]["description"].strip() + (
        "\n\nThe document with every schema is `openapi/openapi.json`; a running service has it at `/openapi.json`"
        " and shows it at `/docs`."
    )
    return page("API", "the OpenAPI document", intro, *sections, webhooks(document))


def webhooks(document: dict[str, Any]) -> str:
    """The requests that the service sends, with the fields of each."""
    schemas = document["components"]["schemas"]
    rows = []
    for name, item in document["webhooks"].items():
        message = schemas[
            item["post"]["requestBody"]["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
        ]
        data = schemas[message["properties"]["data"]["$ref"].rpartition("/")[2]]
        fields = ", ".join(f"`{field}`" for field in data["properties"])
        rows.append((f"`{name}`", item["post"]["description"], fields))
    intro = (
        "Requests that the service sends to webhook endpoints; [Receive webhooks](../how-to/receive-webhooks.md) is the guide."
        " The document has their schemas in `webhooks`."
    )
    return f"## Messages of webhooks\n\n{intro}\n\n" + table(
        ("`type`", "sent when", "fields of `data`"), rows
    )


# --- errors ------------------------------------------------------------------------------------------------------


def errors() -> str:
    problems: dict[str, tuple[str, str, set[str]]] = {}
    for _, _, operation in operations(openapi_document()):
        for status, response in operation["responses"].items():
            examples = response.get("content", {}).get("application/problem+json", {}).get("examples", {})
            for code, example in examples.items():
                entry = problems.setdefault(code, (status, example["value"]["detail"], set()))
                entry[2].add(operation["operationId"])
    every = len(list(operations(openapi_document())))
    rows = [
        (f"`{code}`", status, detail, _users(used, every))
        for code, (status, detail, used) in sorted(problems.items(), key=lambda item: (item[1][0], item[0]))
    ]
    fields = [(f"`{code}`", message) for code, message in sorted(set(field_codes()))]
    return page(
        "Errors",
        "the OpenAPI document and `app/api/field_errors.py`",
        "Every error is `application/problem+json` (RFC 9457) with a stable `code` and a `request_id`. An error never"
        " repeats what the client sent.",
        "## Problem codes",
        table(("code", "status", "detail", "operations"), rows),
        "## Codes of fields",
        "A 422 lists each wrong field in `errors` as `field`, `code` and `message`.",
        table(("code", "message"), fields),
    )


def field_codes() -> Iterator[tuple[str, str]]:
    """Code and message of every error of a field: the table of `api/field_errors.py`, and what use cases raise."""
    yield from (*FIELD_ERRORS.values(), INVALID)
    yield from ((code, message) for code, message, _ in KEY_CHECKS)
    for path in sorted(APP.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in RAISING:
                code, message = (
                    _text(one) for one in node.args[-2:]
                )  # the field before them may be a variable
                if code is not None and message is not None:
                    yield code, message


def _text(node: ast.expr) -> str | None:
    """The text of a literal, with `...` for what it inserts. None for any other expression."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=parts):
            return "".join(_text(part) or "..." for part in parts)
        case _:
            return None


def _users(used: set[str], every: int) -> str:
    if len(used) > every // 2:
        return f"{len(used)} of {every} operations"
    return ", ".join(f"`{name}`" for name in sorted(used))


# --- settings ----------------------------------------------------------------------------------------------------


def settings() -> str:
    rows = [
        (f"`{PREFIX}{name}`", shown_default(field), field.description or "")
        for name, field in fields_of(Settings)
    ]
    return page(
        "Settings",
        "`app/settings/groups`",
        "Settings are environment variables, also read from `.env` in the working directory; a variable of the"
        " environment wins. A wrong value stops the start with one line that names the variable and never prints the"
        " value. Durations are written `30s`, `15m`, `12h` or `7d`; lists are separated by commas.",
        table(("variable", "default", "meaning"), rows),
    )


def fields_of(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from fields_of(kind, f"{prefix}{name.upper()}__")
        else:
            yield prefix + name.upper(), field


def shown_default(field: FieldInfo) -> str:
    default = field.get_default(call_default_factory=True, validated_data={})
    if default is PydanticUndefined:
        return "required"
    if default is None or default == "" or isinstance(default, SecretStr):
        return "unset"
    if isinstance(default, timedelta):
        return f"`{duration(default)}`"
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    if isinstance(default, list):
        default = ",".join(default)
    if not default and isinstance(default, (str, dict)):
        return "empty"
    return f"`{default}`"


def duration(value: timedelta) -> str:
    seconds = int(value.total_seconds())
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds and seconds % size == 0:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


# --- command line ------------------------------------------------------------------------------------------------


def cli() -> str:
    assert isinstance(command_line, click.Group)
    return page(
        "Command line",
        "`app/cli`",
        "`.venv/bin/byok COMMAND`. Settings are environment variables: see [settings](settings.md). A command that"
        " fails exits with 1, and a wrong call with 2. Both print how to fix the cause.",
        *(
            section
            for name, command in sorted(command_line.commands.items())
            for section in sections(name, command)
        ),
    )


def sections(name: str, command: click.Command) -> Iterator[str]:
    """A section for the command, and one for each command of a group."""
    context = click.Context(command, info_name=f"byok {name}")
    rows = [
        (f"`{', '.join(one.opts)}`", option_help(one))
        for one in command.params
        if isinstance(one, click.Option) and "--help" not in one.opts
    ]
    parts = [
        f"## byok {name}",
        cleandoc(command.help or ""),
        f"```text\n{command.get_usage(context)}\n```",
    ]
    yield "\n\n".join([*parts, table(("option", "meaning"), rows)] if rows else parts)
    if isinstance(command, click.Group):
        for inner, one in command.commands.items():
            yield from sections(f"{name} {inner}", one)


def option_help(option: click.Option) -> str:
    text = option.help or ""
    if isinstance(option.type, click.Choice):
        text += f" One of {', '.join(f'`{choice}`' for choice in option.type.choices)}."
    if option.required:
        text += " Required."
    elif option.default not in (None, False, ()) and not repr(option.default).startswith("Sentinel"):
        text += f" Default: `{option.default}`."
    return text.strip()


PAGES: dict[str, Callable[[], str]] = {
    "api.md": api,
    "settings.md": settings,
    "cli.md": cli,
    "errors.md": errors,
}


def main() -> int:
    check = "--check" in sys.argv[1:]
    stale = []
    for name, build in PAGES.items():
        path, text = REFERENCE / name, build()
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            stale.append(name)
            if not check:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, encoding="utf-8")
    if not stale:
        print("The reference pages are up to date.")
        return 0
    names = ", ".join(f"docs/reference/{name}" for name in stale)
    print(
        f"{names}: out of date. Next: make reference"
        if check
        else f"Wrote {names}. Next: git diff docs/reference"
    )
    return 1 if check else 0


if __name__ == "__main__":
    sys.exit(main())
