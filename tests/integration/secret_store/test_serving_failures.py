"""What clients see while Vault fails: a code for each kind of failure. Metadata stays available."""

from collections.abc import AsyncIterator, Callable

import httpx
import pytest

from app.core.services import Services
from app.database.engine import Database
from tests.support.requests.rotation import status_and_code
from tests.support.tenant import MakeToken, Tenant
from tests.support.vault.api_service import VaultBackedApi, vault_backed_api
from tests.support.vault.fake import FakeVault, ServedVault
from tests.support.vault.prepared import PreparedVault


def seal_vault(fake: FakeVault) -> None:
    fake.script_response("", 503, {"errors": ["Vault is sealed"]})


def stop_responding(fake: FakeVault) -> None:
    fake.unblocked.clear()


def respond_with_bad_gateway(fake: FakeVault) -> None:
    fake.script_response("", 502, b"<html>bad gateway</html>")


def become_standby(fake: FakeVault) -> None:
    fake.script_response("", 473, b"")


def exceed_the_quota(fake: FakeVault) -> None:
    fake.script_response("", 429, {"errors": ["rate limit quota exceeded"]})


def revoke_the_token(fake: FakeVault) -> None:
    fake.script_response("", 403, {"errors": ["permission denied"]})


def deny_by_policy(fake: FakeVault) -> None:
    """Deny every operation although the token is valid."""
    for mount in fake.mounts:
        fake.script_response(f"{mount}", 403, {"errors": ["permission denied"]})
    fake.script_response("revoke-accessor", 403, {"errors": ["permission denied"]})


def remove_the_mounts(fake: FakeVault) -> None:
    for mount in fake.mounts:
        fake.script_response(
            f"{mount}", 404, {"errors": ['no handler for route "x". route entry not found.']}
        )


FAILURES = {
    "sealed": (seal_vault, "secret_store_sealed", True),
    "silent": (stop_responding, "secret_store_timeout", True),
    "down": (respond_with_bad_gateway, "secret_store_unavailable", True),
    "standby": (become_standby, "secret_store_standby", True),
    "busy": (exceed_the_quota, "secret_store_busy", True),
    "token revoked": (revoke_the_token, "secret_store_login_refused", False),
    "permission lost": (deny_by_policy, "secret_store_permission_denied", False),
    "mount missing": (remove_the_mounts, "secret_store_misconfigured", False),
}
every_failure = pytest.mark.parametrize(
    ("fail", "code", "is_temporary"), [pytest.param(*failure, id=name) for name, failure in FAILURES.items()]
)
every_fault_and_code = pytest.mark.parametrize(
    ("fail", "code"), [pytest.param(fail, code, id=name) for name, (fail, code, _) in FAILURES.items()]
)
every_fault = pytest.mark.parametrize(
    "fail", [pytest.param(fail, id=name) for name, (fail, _, _) in FAILURES.items()]
)
Fail = Callable[[FakeVault], None]


def refusals(responses: dict[str, httpx.Response]) -> dict[str, tuple[int, str]]:
    return {name: status_and_code(response) for name, response in responses.items()}


@pytest.fixture
async def api(
    request: pytest.FixtureRequest,
    prepared_fake: PreparedVault,
    served_vault: ServedVault,
    services: Services,
    database: Database,
    tenant: Tenant,
    make_token: MakeToken,
) -> AsyncIterator[VaultBackedApi]:
    async with (
        prepared_fake.store() as store,
        vault_backed_api(
            services, database, tenant, make_token, store=store, vault_address=served_vault.address
        ) as found,
    ):
        if "fail" in request.fixturenames and request.getfixturevalue("fail") is stop_responding:
            # Only a silent server uses up the deadline, so only its tests need a short one.
            store.deadline_seconds = 0.5
        yield found
        served_vault.fake.reset()


class TestClients:
    @every_failure
    async def test_get_the_code_of_the_failure(
        self, api: VaultBackedApi, served_vault: ServedVault, fail: Fail, code: str, is_temporary: bool
    ) -> None:
        fail(served_vault.fake)

        responses = await api.send_requests_that_need_vault()

        assert refusals(responses) == dict.fromkeys(responses, (503, code))
        for response in responses.values():
            assert ("Retry-After" in response.headers) is is_temporary
            assert response.headers["Content-Type"] == "application/problem+json"

    @every_fault
    async def test_can_use_metadata_without_vault(
        self, api: VaultBackedApi, served_vault: ServedVault, fail: Fail
    ) -> None:
        fail(served_vault.fake)
        served_vault.fake.received.clear()

        responses = await api.send_requests_without_vault()

        assert {name: response.status_code for name, response in responses.items()} == dict.fromkeys(
            responses, 200
        )
        # Only readiness asks Vault, whether the active key is still there. Without a response, the database decides.
        assert {
            (request.method, request.path.rpartition("/")[2]) for request in served_vault.fake.received
        } <= {
            ("GET", api.path.rpartition("/")[2]),
            ("GET", "lookup-self"),
        }

    @every_fault
    async def test_see_validations_as_indeterminate(
        self, api: VaultBackedApi, served_vault: ServedVault, fail: Fail
    ) -> None:
        fail(served_vault.fake)

        response = await api.admin.post(f"{api.path}/validations")

        assert response.status_code == 201
        found = response.json()
        assert (found["status"], found["reason"]) == ("indeterminate", "secret_store_unavailable")
        credential = (await api.admin.get(api.path)).json()
        assert credential["validation"]["status"] == "valid"

    async def test_are_served_again_after_the_failure(
        self, api: VaultBackedApi, served_vault: ServedVault
    ) -> None:
        seal_vault(served_vault.fake)
        refused = await api.lease()
        served_vault.fake.reset()

        assert status_and_code(refused) == (503, "secret_store_sealed")
        assert (await api.lease()).status_code == 201
        assert (await api.admin.create()).status_code == 201


class TestReadiness:
    @every_fault_and_code
    async def test_reports_the_code_of_the_failure(
        self, api: VaultBackedApi, served_vault: ServedVault, fail: Fail, code: str
    ) -> None:
        fail(served_vault.fake)

        response = await api.readyz()

        assert response.status_code == 503
        assert response.json() == {
            "status": "not_ready",
            "dependencies": {"secret_store": "down"},
            "problems": {"secret_store": code},
        }
        assert (await api.admin.http.get("/livez")).status_code == 200
