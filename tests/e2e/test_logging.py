"""The access log names the request, the organization and the credential, and never contains client input."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support.output_sinks import log_lines
from tests.support.tenant import Tenant

Lines = Callable[[str], list[dict[str, Any]]]

ACCESS = "byok.access"


@pytest.fixture
def lines(tenant: Tenant) -> Iterator[Lines]:
    """A function that returns the lines of one logger since its last call."""

    def read(logger: str) -> list[dict[str, Any]]:
        return [line for line in map(json.loads, written().splitlines()) if line["logger"] == logger]

    with log_lines(level="info") as written:
        yield read


class TestAccessLine:
    async def test_names_request_organization_credential_and_subject(
        self, tenant: Tenant, lines: Lines
    ) -> None:
        credential = await tenant.created()
        lines(ACCESS)

        response = await tenant.get(f"{tenant.credentials}/{credential['id']}?typed=by-hand")

        (line,) = lines(ACCESS)
        assert line.pop("milliseconds") > 0
        assert line.pop("timestamp").endswith("Z")
        assert line == {
            "event": "request",
            "level": "info",
            "logger": "byok.access",
            "method": "GET",
            "route": "/v1/organizations/{organization_id}/provider-credentials/{credential_id}",
            "status": 200,
            "subject": "billing-admin@example.com",
            "request_id": response.headers["x-request-id"],
            "organization_id": tenant.organization,
            "credential_id": credential["id"],
        }

    async def test_does_not_contain_an_unknown_path(self, tenant: Tenant, lines: Lines) -> None:
        await tenant.get(f"{tenant.path}/typed-by-hand")

        (line,) = lines(ACCESS)
        assert (line["route"], line["status"]) == ("unknown", 404)
        assert "typed-by-hand" not in json.dumps(line)

    async def test_omits_a_malformed_credential_id(self, tenant: Tenant, lines: Lines) -> None:
        await tenant.get(f"{tenant.credentials}/typed-by-hand")

        (line,) = lines(ACCESS)
        assert line["status"] == 404
        assert "credential_id" not in line
        assert "typed-by-hand" not in json.dumps(line)

    async def test_has_no_subject_without_a_token(self, tenant: Tenant, lines: Lines) -> None:
        await tenant.http.get(tenant.credentials)

        refused, line = lines(ACCESS)
        assert (refused["event"], refused["reason"]) == ("token_refused", "missing")
        assert (line["status"], line["subject"]) == (401, None)


async def test_logs_a_finished_validation_with_credential_and_result(tenant: Tenant, lines: Lines) -> None:
    credential = await tenant.created()

    (validated,) = lines("byok.validation")
    assert (validated["credential_id"], validated["status"]) == (credential["id"], "valid")
    assert validated["request_id"].startswith("req_")
