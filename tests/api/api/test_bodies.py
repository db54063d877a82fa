"""Invalid bodies: too large, not JSON, invalid fields. No response repeats any part of them."""

import gzip
import json
import re
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from app.auth.principal import Scope
from app.core.clock import new_id
from tests.support.openapi import openapi_document
from tests.support.problems import UnreadBody, assert_problem
from tests.support.provider.fake_anthropic import make_key
from tests.support.tenant import MakeToken, Tenant

JSON = {"Content-Type": "application/json"}
MEBIBYTE = 1024 * 1024
KEY = make_key()
WINDOW = 8


def assert_key_not_in(text: str, key: str = KEY) -> None:
    """The text contains no eight consecutive characters of the key after its public prefix."""
    secret = key.removeprefix("sk-ant-api03-")
    windows = (secret[start : start + WINDOW] for start in range(len(secret) - WINDOW + 1))
    assert not [window for window in windows if window in text]


class TestSize:
    async def test_above_the_limit_is_rejected_before_it_is_read(self, tenant: Tenant) -> None:
        response = await tenant.post(
            tenant.credentials, content=UnreadBody(), headers=JSON | {"Content-Length": str(MEBIBYTE + 1)}
        )

        assert_problem(response, 413, "payload_too_large")

    async def test_above_the_limit_is_rejected_while_it_is_read(self, tenant: Tenant) -> None:
        sent = 0

        async def body() -> AsyncIterator[bytes]:
            nonlocal sent
            while sent < 10 * MEBIBYTE:
                sent += 64 * 1024
                yield b" " * 64 * 1024

        response = await tenant.post(tenant.credentials, content=body(), headers=JSON)

        assert_problem(response, 413, "payload_too_large")

    @pytest.mark.parametrize("method", ["POST", "PATCH"])
    async def test_up_to_the_limit_is_accepted(self, tenant: Tenant, method: str) -> None:
        body = json.dumps({"label": "x"}).encode().ljust(MEBIBYTE)
        credential = await tenant.created()
        url = {"POST": tenant.credentials, "PATCH": f"{tenant.credentials}/{credential['id']}"}[method]

        response = await tenant.request(method, url, content=body, headers=JSON)

        assert response.status_code == {"POST": 422, "PATCH": 200}[method]


class TestMediaType:
    @pytest.mark.parametrize(
        "media_type",
        ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "text/json", "json", ""],
    )
    async def test_other_than_json_is_415(self, tenant: Tenant, media_type: str) -> None:
        response = await tenant.post(
            tenant.credentials, content=f'{{"api_key":"{KEY}"}}', headers={"Content-Type": media_type}
        )

        assert_problem(response, 415, "unsupported_media_type")
        assert_key_not_in(response.text)

    @pytest.mark.parametrize("coding", ["gzip", "br", "identity, gzip", "GZIP"])
    async def test_an_encoded_body_is_415(self, tenant: Tenant, coding: str) -> None:
        body = gzip.compress(json.dumps({"label": "x", "api_key": KEY}).encode())

        response = await tenant.post(
            tenant.credentials, content=body, headers={**JSON, "Content-Encoding": coding}
        )

        assert_problem(response, 415, "unsupported_media_type")
        assert response.headers["accept-encoding"] == "identity"

    async def test_the_identity_coding_is_none(self, tenant: Tenant) -> None:
        body = json.dumps({"label": "x", "api_key": make_key()})

        response = await tenant.post(
            tenant.credentials, content=body, headers={**JSON, "Content-Encoding": "identity"}
        )

        assert response.status_code == 201

    @pytest.mark.parametrize("media_type", ["application/json; charset=utf-8", "Application/JSON"])
    async def test_of_json_is_accepted_in_any_spelling(self, tenant: Tenant, media_type: str) -> None:
        body = json.dumps({"label": "x", "api_key": make_key()})

        response = await tenant.post(tenant.credentials, content=body, headers={"Content-Type": media_type})

        assert response.status_code == 201


WITH_BODY = [
    (method.upper(), path)
    for path, operations in openapi_document()["paths"].items()
    for method, operation in operations.items()
    if "requestBody" in operation
]
MALFORMED = {
    "unclosed braces": f'{{"api_key": "{KEY}"'.encode(),
    "bare word": KEY.encode(),
    "quoted twice": f'{{"api_key": ""{KEY}""}}'.encode(),
    "single quotes": f"{{'api_key': '{KEY}'}}".encode(),
    "trailing comma": f'{{"api_key": "{KEY}",}}'.encode(),
    "newline in the key": f'{{"label": "x", "api_key": "{KEY}\n"}}'.encode(),
    "two documents": f'{{"api_key": "{KEY}"}} {{}}'.encode(),
    "UTF-8 cut short": f'{{"api_key": "{KEY}é'.encode()[:-1] + b'"}',
    "Latin-1": f'{{"label": "é", "api_key": "{KEY}"}}'.encode("latin-1"),
    "UTF-16": json.dumps({"label": "x", "api_key": KEY}).encode("utf-16"),
    "UTF-32": json.dumps({"label": "x", "api_key": KEY}).encode("utf-32"),
    "UTF-7": f'+AHs"api_key": "{KEY}"+AH0-'.encode(),
    "null bytes": b"\0" * 64,
    "deep arrays": b"[" * 100_000,
    "deep objects": b'{"label":' * 100_000,
    "deep and closed": b"[" * 100_000 + b"]" * 100_000,
    "endless number": b'{"label": ' + b"9" * 10_000 + b"}",
    "not a number": b'{"label": NaN}',
    "infinite number": b'{"label": [Infinity]}',
    "infinite negative number": b'{"label": "x", "unknown": -Infinity}',
}


class TestSyntax:
    @pytest.mark.parametrize("case", MALFORMED)
    async def test_that_is_not_json_in_utf_8_is_400(self, tenant: Tenant, case: str) -> None:
        response = await tenant.post(tenant.credentials, content=MALFORMED[case], headers=JSON)

        assert_problem(response, 400, "malformed_json")
        assert_key_not_in(response.text)

    @pytest.mark.parametrize(("method", "path"), WITH_BODY)
    @pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
    async def test_has_only_finite_numbers_in_every_operation(
        self, tenant: Tenant, make_token: MakeToken, method: str, path: str, number: str
    ) -> None:
        anyone = replace(tenant, token=make_token(scopes=frozenset(Scope) - {Scope.RELAY_MESSAGES}))
        url = re.sub(r"\{[^}]*\}", str(new_id()), path.replace("{organization_id}", tenant.organization))

        response = await anyone.request(method, url, content=f'{{"events": [{number}]}}', headers=JSON)

        assert_problem(response, 400, "malformed_json")


SHAPES: dict[str, Any] = {
    "null": None,
    "array": [{"label": "x", "api_key": KEY}],
    "text": KEY,
    "number": 7,
    "empty": {},
    "key without label": {"api_key": KEY},
    "key as a list": {"label": "x", "api_key": [KEY]},
    "key as an object": {"label": "x", "api_key": {"value": KEY}},
    "key as provider": {"label": "x", "api_key": KEY, "provider": KEY},
    "key as style": {"label": "x", "api_key": KEY, "auth_style": KEY},
    "key as label": {"label": KEY, "api_key": KEY},
    "key in a list as label": {"label": [KEY], "api_key": KEY},
    "key as a field": {"label": "x", "api_key": KEY, KEY: "x"},
    "key as a field beside a flaw": {"api_key": KEY, KEY: {KEY: KEY}},
    "key in an unknown field": {"label": "x", "key": KEY},
    "key with a space": {"label": "x", "api_key": f"{KEY} "},
    "key with a hyphen of another kind": {"label": "x", "api_key": f"{KEY}\u2011"},
}


class TestShape:
    @pytest.mark.parametrize("case", SHAPES)
    async def test_that_is_invalid_is_422_and_repeats_no_input(self, tenant: Tenant, case: str) -> None:
        response = await tenant.post(tenant.credentials, content=json.dumps(SHAPES[case]), headers=JSON)

        problem = response.json()
        assert_problem(response, 422, problem["code"])
        assert problem["errors"]
        assert all(set(error) == {"field", "code", "message"} for error in problem["errors"])
        assert_key_not_in(response.text + str(response.headers))

    @pytest.mark.parametrize(
        "operation", ["validations", "rollback", "disable", "enable", "versions/1/destroy"]
    )
    async def test_of_an_operation_without_fields_must_be_empty(self, tenant: Tenant, operation: str) -> None:
        path = f"{tenant.credentials}/{(await tenant.created())['id']}/{operation}"

        for body, expected in {
            '{"x": 1}': (422, "unknown_field"),
            "[]": (422, "validation_failed"),
            "{": (400, "malformed_json"),
            '{"x": "\\ud800' + "[" * 99_999: (400, "malformed_json"),
        }.items():
            response = await tenant.post(path, content=body, headers=JSON)
            assert (response.status_code, response.json()["code"]) == expected
        empty = await tenant.post(path, json={})
        assert empty.status_code == (await tenant.post(path)).status_code
        assert empty.status_code in {200, 201, 409}

    async def test_with_the_key_as_a_field_names_no_field(self, tenant: Tenant) -> None:
        response = await tenant.post(tenant.credentials, json={"label": "x", "api_key": make_key(), KEY: 1})

        assert_problem(response, 422, "unknown_field")
        assert [error["field"] for error in response.json()["errors"]] == ["body"]

    async def test_with_the_key_in_path_or_query_repeats_no_input(self, tenant: Tenant) -> None:
        responses = [
            await tenant.get(f"{tenant.credentials}/{KEY}"),
            await tenant.get(f"{tenant.path}/{KEY}"),
            await tenant.get(tenant.credentials, params={"page": KEY}),
            await tenant.get(tenant.credentials, params={"limit": KEY}),
            await tenant.get(tenant.credentials, params={KEY: KEY}),
            await tenant.post(f"{tenant.credentials}/{KEY}/validations"),
            await tenant.patch(f"{tenant.credentials}/{KEY}", json={"label": "x"}),
            await tenant.create(headers={"Idempotency-Key": KEY * 4}),
        ]

        for response in responses:
            assert_key_not_in(response.text + str(response.headers))


class TestManyErrors:
    """The number of errors in a response, and the work to find them, do not grow with the body."""

    async def test_unknown_fields_are_one_error_and_values_are_not_judged(self, tenant: Tenant) -> None:
        body = {f"a{number}": 0 for number in range(50_000)} | {"name": 5, "period": "x"}

        response = await tenant.post(f"{tenant.path}/spend-limits", json=body)

        assert_problem(response, 422, "unknown_field")
        assert [(error["field"], error["code"]) for error in response.json()["errors"]] == [
            ("body", "unknown_field")
        ]
        assert "errors_truncated" not in response.json()

    async def test_a_list_stops_at_its_first_invalid_item(self, tenant: Tenant) -> None:
        response = await tenant.post(f"{tenant.path}/spend-limits", json={"thresholds": [0] * 400_000})

        assert_problem(response, 422, "validation_failed")
        fields = [error["field"] for error in response.json()["errors"]]
        assert fields == ["name", "amount", "period", "thresholds"]

    @pytest.mark.parametrize(("number", "is_truncated"), [(20, False), (21, True), (90, True)])
    async def test_at_most_twenty_are_in_the_response(
        self, tenant: Tenant, number: int, is_truncated: bool
    ) -> None:
        query = {"starting_at": "2026-05-01T00:00:00Z", "group_by[]": ["x"] * number}

        response = await tenant.get(f"{tenant.path}/usage-report", params=query)

        assert_problem(response, 422, "validation_failed")
        assert len(response.json()["errors"]) == 20
        assert response.json().get("errors_truncated", False) is is_truncated
        assert len(response.content) <= 16 * 1024


class TestNumberOfValues:
    """A body with more values than any valid one is shortened before it is parsed."""

    @pytest.mark.parametrize("size", [50, MEBIBYTE], ids=["in parts", "whole"])
    async def test_of_a_shortened_body_does_not_change_its_error(self, tenant: Tenant, size: int) -> None:
        body = json.dumps({"amount": 5, "name": [1, 2], "thresholds": [0] * 30_000, "more": 1}).encode()

        async def parts() -> AsyncIterator[bytes]:
            for start in range(0, len(body), size):
                yield body[start : start + size]

        response = await tenant.post(f"{tenant.path}/spend-limits", content=parts(), headers=JSON)

        assert_problem(response, 422, "validation_failed")
        assert [error["field"] for error in response.json()["errors"]] == [
            *("name", "amount", "period", "thresholds")
        ]

    async def test_of_repeated_fields_is_422(self, tenant: Tenant) -> None:
        fields = ",".join('"label":"x"' for _ in range(20_000))
        body = f'{{"api_key":"{make_key()}",{fields}}}'

        response = await tenant.post(tenant.credentials, content=body, headers=JSON)

        assert_problem(response, 422, "validation_failed")
        assert [error["code"] for error in response.json()["errors"]] == ["too_many_values"]

    async def test_counts_no_commas_in_texts(self, tenant: Tenant) -> None:
        body = json.dumps({"label": "," * 20_000, "api_key": make_key()})

        response = await tenant.post(tenant.credentials, content=body, headers=JSON)

        assert [error["field"] for error in response.json()["errors"]] == ["label"]
