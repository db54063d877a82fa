"""The log of a request says which request, which organization and which credential, and nothing that was typed."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.conftest import Tenant
from tests.e2e.sinks import log_lines

Lines = Callable[[str], list[dict[str, Any]]]

ACCESS = "byok.access"


@pytest.fixture
def lines(tenant: Tenant) -> Iterator[Lines]:
    """The lines of one logger since the last look."""

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

    async def test_of_an_unknown_path_does_not_repeat_it(self, tenant: Tenant, lines: Lines) -> None:
        await tenant.get(f"{tenant.path}/typed-by-hand")

        (line,) = lines(ACCESS)
        assert (line["route"], line["status"]) == ("unknown", 404)
        assert "typed-by-hand" not in json.dumps(line)

    async def test_of_a_path_that_is_no_credential_has_no_credential(
        self, tenant: Tenant, lines: Lines
    ) -> None:
        await tenant.get(f"{tenant.credentials}/typed-by-hand")

        (line,) = lines(ACCESS)
        assert line["status"] == 404
        assert "credential_id" not in line
        assert "typed-by-hand" not in json.dumps(line)

    async def test_without_a_token_has_no_subject(self, tenant: Tenant, lines: Lines) -> None:
        await tenant.http.get(tenant.credentials)

        refused, line = lines(ACCESS)
        assert (refused["event"], refused["reason"]) == ("token_refused", "missing")
        assert (line["status"], line["subject"]) == (401, None)


async def test_a_finished_check_is_logged_with_credential_and_verdict(tenant: Tenant, lines: Lines) -> None:
    credential = await tenant.created()

    (checked,) = lines("app.validation.runner")
    assert (checked["credential_id"], checked["status"]) == (credential["id"], "valid")
    assert checked["request_id"].startswith("req_")
