"""Masking by construction: no response, record, table or log has a field that could contain a key."""

import ast
import dataclasses
import importlib
import inspect
import json
import pkgutil
import types
import typing
from collections.abc import Callable, Iterator
from datetime import date, datetime, timedelta
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from msgspec import Struct
from pydantic import SecretStr

import app
from app.api.schemas import RequestModel, ResponseModel
from app.core.keys.api_key import ApiKey
from app.core.keys.signing_secret import SigningSecret
from app.database.sessions import Session
from app.pricing.prices import OverrideList
from app.usage_mode.history import KeyVersionHistory, ModeHistory

SOURCE = Path(app.__file__).parent
OPENAPI = SOURCE.parent / "openapi" / "openapi.json"
KEY_FIELDS = {"api_key", "key", "secret", "token", "password", "plaintext", "ciphertext", "sealed", "ct"}
PLAIN = (str, int, bool, float, bytes, date, datetime, timedelta, UUID, type(None))
# Classes that are not records, but are made only of records: the parameters of their constructors are checked.
MADE_OF_RECORDS = (OverrideList, KeyVersionHistory, ModeHistory)


def modules(*roles: str) -> list[types.ModuleType]:
    """Every module of the service that plays one of these roles, by its name: `schemas`, `version_schemas`."""
    found = pkgutil.walk_packages(app.__path__, "app.")
    return [
        importlib.import_module(module.name)
        for module in found
        if module.name.rpartition(".")[2].rpartition("_")[2] in roles
    ]


@cache
def names_in_files() -> dict[str, set[str]]:
    """The attributes that each file of the service accesses, and its strings, which may name an attribute."""
    return {
        str(path.relative_to(SOURCE)): {
            node.attr if isinstance(node, ast.Attribute) else str(node.value)
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Attribute)
            or (isinstance(node, ast.Constant) and isinstance(node.value, str))
        }
        for path in SOURCE.rglob("*.py")
    }


def calls(attribute: str) -> set[str]:
    """The files of the service that access an attribute of this name."""
    return {file for file, names in names_in_files().items() if attribute in names}


def subclasses(model: type[Any]) -> Iterator[type[Any]]:
    for child in model.__subclasses__():
        yield child
        yield from subclasses(child)


def leaves(annotation: Any) -> Iterator[Any]:
    """The types that an annotation consists of."""
    if isinstance(annotation, list):  # the arguments of a Callable
        for argument in annotation:
            yield from leaves(argument)
        return
    arguments = [a for a in typing.get_args(annotation) if a is not Ellipsis]
    if not arguments or typing.get_origin(annotation) is typing.Literal:
        yield annotation
    for argument in arguments:
        yield from leaves(argument)


class TestPlaintext:
    def test_is_revealed_only_to_encrypt_and_to_send_it(self) -> None:
        revealing = calls("reveal")

        # The schema of webhooks reveals a signing secret, not a key, in the only response that shows it.
        assert {name for name in revealing if not name.startswith("secret_store/")} == {
            "egress/anthropic.py",
            "egress/credential_header.py",
            "egress/webhooks.py",
            "webhooks/schemas.py",
        }
        assert revealing & {"secret_store/embedded/store.py"}

    def test_is_read_from_requests_only_in_schemas(self) -> None:
        found = calls("get_secret_value") - {
            "secret_store/vault/roles.py"
        }  # the service's Vault login, not a key

        assert {name.rpartition("/")[2] for name in found} == {"schemas.py"}

    def test_is_accessed_only_by_the_classes_that_mask_it(self) -> None:
        assert calls("_text") == {
            "core/keys/masked.py",
            "core/keys/api_key.py",
            "core/keys/signing_secret.py",
        }


class TestResponses:
    def test_have_no_field_for_a_key(self) -> None:
        modules("schemas", "schema")
        models = set(subclasses(ResponseModel))

        assert len(models) > 5
        for model in models:
            assert KEY_FIELDS.isdisjoint(model.model_fields), model.__name__
            for field in model.model_fields.values():
                assert {SecretStr, ApiKey, SigningSecret}.isdisjoint(leaves(field.annotation)), model.__name__

    def test_reject_undeclared_fields(self) -> None:
        modules("schemas", "schema")

        assert all(model.model_config["extra"] == "forbid" for model in subclasses(ResponseModel))

    def test_have_no_field_for_a_key_in_the_openapi_document(self) -> None:
        document = json.loads(OPENAPI.read_text())

        names = set(_response_schemas(document))

        assert {"Credential", "Problem"} <= names
        for name in names:
            schema = document["components"]["schemas"][name]
            assert KEY_FIELDS.isdisjoint(schema.get("properties", ())), name
            assert '"writeOnly"' not in json.dumps(schema), name


class TestRequests:
    def test_declare_keys_as_secrets_and_hide_input_in_errors(self) -> None:
        modules("schemas", "schema")

        for model in subclasses(RequestModel):
            assert model.model_config["hide_input_in_errors"], model.__name__
            for name, field in model.model_fields.items():
                assert (name in KEY_FIELDS) == (field.annotation is SecretStr), (model.__name__, name)


@dataclasses.dataclass
class Holder:
    """A record that must not be returned."""

    __module__ = "app.records"
    name: str
    keys: tuple[ApiKey, ...]


class StructHolder(Struct):
    """A record of the other kind that must not be returned."""

    __module__ = "app.records"
    name: str
    keys: tuple[ApiKey, ...]


class TestRepositories:
    def test_return_only_plain_values_enums_and_records(self) -> None:
        checked = 0
        for function in _repository_methods():
            returned = typing.get_type_hints(function)["return"]
            for leaf in leaves(returned):
                assert _is_masked(leaf), f"{function.__qualname__} returns {leaf}"
            checked += 1

        assert checked > 20

    @pytest.mark.parametrize(
        "returned",
        [
            ApiKey,
            SigningSecret,
            SecretStr,
            dict[str, ApiKey],
            ApiKey | None,
            Callable[[ApiKey], int],
            Callable[[], ApiKey],
            Session,
            Any,
            Holder,
            StructHolder,
        ],
    )
    def test_that_return_anything_else_are_found(self, returned: Any) -> None:
        assert not all(_is_masked(leaf) for leaf in leaves(returned))


class TestRecords:
    def test_have_no_field_for_a_key(self) -> None:
        records = [
            member
            for module in modules(
                "records",
                "rotations",
                "validation_results",
                "events",
                "reports",
                "prices",
                "limits",
                "endpoints",
                "statements",
                "modes",
            )
            for _, member in inspect.getmembers(module, _is_record)
            if member.__module__ == module.__name__
        ]

        assert len(records) > 5
        for record in records:
            for leaf in typing.get_type_hints(record).values():
                assert {ApiKey, SigningSecret}.isdisjoint(leaves(leaf)), record

    def test_have_no_column_for_a_key_in_the_tables(self) -> None:
        tables = {
            table.name: table
            for module in modules("tables")
            for table in vars(module).values()
            if hasattr(table, "columns") and hasattr(table, "metadata")
        }

        assert {"provider_credential", "credential_version"} <= set(tables)
        for table in tables.values():
            assert KEY_FIELDS.isdisjoint(column.name for column in table.columns), table.name


def _is_masked(leaf: Any) -> bool:
    """Whether a type is a plain value, an enum, or a record of `app` that consists of such types."""
    if leaf in PLAIN or typing.get_origin(leaf) is typing.Literal:
        return True
    if not isinstance(leaf, type):
        return False
    if issubclass(leaf, Enum):
        return True
    is_record = _is_record(leaf)
    if not leaf.__module__.startswith("app.") or not (is_record or leaf in MADE_OF_RECORDS):
        return False
    hints = typing.get_type_hints(leaf if is_record else leaf.__init__)
    return all(_is_masked(part) for hint in hints.values() for part in leaves(hint))


def _is_record(kind: object) -> bool:
    """Whether a class consists of the fields that it declares."""
    if not isinstance(kind, type):
        return False
    is_named_tuple = issubclass(kind, tuple) and hasattr(kind, "_fields")
    return dataclasses.is_dataclass(kind) or issubclass(kind, Struct) or is_named_tuple


def _repository_methods() -> Iterator[Any]:
    for module in modules("repository", "queue"):
        for _, repository in inspect.getmembers(module, inspect.isclass):
            if repository.__module__ != module.__name__ or not repository.__name__.endswith("Repository"):
                continue
            for name, function in inspect.getmembers(repository, inspect.isfunction):
                if not name.startswith("_"):
                    yield function


def _response_schemas(document: dict[str, Any]) -> Iterator[str]:
    """The names of all schemas that responses refer to, directly or indirectly."""
    unread = [
        response
        for item in document["paths"].values()
        for operation in item.values()
        for response in operation["responses"].values()
    ]
    seen: set[tuple[str, str]] = set()
    while unread:
        found = set(_references(unread.pop())) - seen
        seen |= found
        unread += [document["components"][kind][name] for kind, name in found]
    yield from (name for kind, name in seen if kind == "schemas")


def _references(node: Any) -> Iterator[tuple[str, str]]:
    """The kind and name of each component to which the node refers."""
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            _, _, kind, name = node["$ref"].split("/")
            yield kind, name
        node = list(node.values())
    if isinstance(node, list):
        for part in node:
            yield from _references(part)
