"""Every response of the running service to generated requests conforms to the OpenAPI document."""

import os
import re
from collections.abc import AsyncIterator, Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import pytest
import schemathesis
from schemathesis.checks import not_a_server_error
from schemathesis.config import SchemathesisConfig
from schemathesis.core.result import Ok
from schemathesis.generation import GenerationMode
from schemathesis.pytest.lazy import get_all_tests
from schemathesis.schemas import BaseSchema
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from app.core.organizations import ORGANIZATION_PATTERN
from tests.support.fault_injection import ALL_CRASHES
from tests.support.network.name_server import nxdomain_name_server
from tests.support.openapi import openapi_document
from tests.support.processes.fake_anthropic import provider_process
from tests.support.processes.service import running
from tests.support.provider.fake_anthropic import make_key

pytestmark = pytest.mark.slow

Case = schemathesis.Case[Any]

ORGANIZATION = "org_schemathesis"
FOR_SERVICES = {"POST /v1/organizations/{organization_id}/usage-events"}
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    response_headers_conformance,
]

# A JSON document is also a valid NDJSON body of one line.
schemathesis.serializer.alias("application/x-ndjson", "application/json")

# The exhaustive run sends more.
EXAMPLES = 25 if ALL_CRASHES else 5
CONFIG = {"generation": {"max-examples": EXAMPLES, "deterministic": True}}

OPERATIONS = [
    operation["operationId"] for path in openapi_document()["paths"].values() for operation in path.values()
]
# A token is checked before the rest of a request, so that these requests differ little between operations.
STRIDE_WITHOUT_TOKEN = 8


@dataclass(frozen=True, kw_only=True)
class Target:
    """The service, the tokens of an admin and of an internal service, and a credential of the admin's organization."""

    url: str
    token: str
    service_token: str
    credential_id: str


@pytest.fixture(scope="module")
async def target() -> AsyncIterator[Target]:
    with nxdomain_name_server() as nameserver:
        async with (
            provider_process() as provider_url,
            running(
                PROVIDER__DEFAULT_BASE_URL=provider_url,
                RATE_LIMITS__CREDENTIAL_WRITES="1000000",
                RATE_LIMITS__URL_CHECKS="1000000",
                RATE_LIMITS__SPEND_LIMIT_WRITES="1000000",
                DNS__NAMESERVERS=nameserver,
            ) as service,
        ):
            created = await service.save(ORGANIZATION, make_key())
            yield Target(
                url=str(service.http.base_url),
                token=await service.token("billing-admin", ORGANIZATION),
                service_token=await service.token("service"),
                credential_id=created.json()["id"],
            )


@pytest.fixture(scope="module")
def schema() -> BaseSchema:
    # It may change the document.
    return schemathesis.openapi.from_dict(
        deepcopy(openapi_document()), config=SchemathesisConfig.from_dict(CONFIG)
    )


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not use the proxies of the developer's shell for loopback."""
    for name in [name for name in os.environ if name.upper().endswith("_PROXY")]:
        monkeypatch.delenv(name)


@pytest.mark.sampled(stride=5)
@pytest.mark.parametrize("operation_id", OPERATIONS)
def test_with_a_token_every_response_conforms(operation_id: str, schema: BaseSchema, target: Target) -> None:
    def conforms(case: Case) -> None:
        _use_existing_ids(case, target)

        token = target.service_token if case.operation.label in FOR_SERVICES else target.token
        response = case.call(base_url=target.url, headers={"Authorization": f"Bearer {token}"})

        case.validate_response(response, checks=CHECKS)

    _for_all_cases(schema, operation_id, conforms)


@pytest.mark.sampled(stride=STRIDE_WITHOUT_TOKEN)
@pytest.mark.parametrize("operation_id", OPERATIONS)
def test_without_a_token_every_response_conforms(
    operation_id: str, schema: BaseSchema, target: Target
) -> None:
    def conforms(case: Case) -> None:
        _use_existing_ids(case, target)
        _remove_token(case)

        response = case.call(base_url=target.url)

        case.validate_response(response, checks=CHECKS)
        assert response.status_code == 401 or not case.operation.path.startswith("/v1")

    _for_all_cases(schema, operation_id, conforms)


def _for_all_cases(schema: BaseSchema, operation_id: str, check: Callable[[Case], None]) -> None:
    """Generate the requests of an operation, and check each.

    `schema.parametrize()` generates them while tests are collected, which each process of a parallel run does.
    """
    only = schema.include(operation_id=operation_id)
    # Not a documented function of schemathesis: a new version may change it.
    (found,) = get_all_tests(schema=only, test_func=check, settings=None, given_kwargs=None)
    assert isinstance(found, Ok), found.err()
    _, run = found.ok()
    run()


def _use_existing_ids(case: Case, target: Target) -> None:
    """Replace well-formed ids by those of existing resources. Malformed ids stay as they were generated."""
    for parameters in (case.path_parameters, case.query):
        if "organization_id" in parameters and _fits(ORGANIZATION_PATTERN, parameters["organization_id"]):
            parameters["organization_id"] = ORGANIZATION
        if "credential_id" in parameters and _fits("[0-9a-f-]{36}", parameters["credential_id"]):
            parameters["credential_id"] = target.credential_id
    is_positive = case.meta is not None and case.meta.generation.mode is GenerationMode.POSITIVE
    if is_positive and isinstance(case.body, dict) and "api_key" in case.body:
        case.body["api_key"] = make_key()


def _remove_token(case: Case) -> None:
    case.headers.pop("Authorization", None)


def _fits(pattern: str, value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(pattern, value, re.IGNORECASE) is not None
