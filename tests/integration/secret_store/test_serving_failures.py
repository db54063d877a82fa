"""What clients see while Vault fails: a code for each kind, at once, and metadata all the same."""

from collections.abc import AsyncIterator, Callable

import httpx
import pytest

from app.core.services import Services
from app.database.engine import Database
from tests.api.rotating import refusal
from tests.conftest import MakeToken, Tenant
from tests.fake_vault import FakeVault, ServedVault
from tests.integration.secret_store.serving import Serving, serving
from tests.integration.secret_store.vaults import Prepared


def seal(fake: FakeVault) -> None:
    fake.answer("", 503, {"errors": ["Vault is sealed"]})


def fall_silent(fake: FakeVault) -> None:
    fake.release.clear()


def go_away(fake: FakeVault) -> None:
    fake.answer("", 502, b"<html>bad gateway</html>")


def stand_by(fake: FakeVault) -> None:
    fake.answer("", 473, b"")


def limit(fake: FakeVault) -> None:
    fake.answer("", 429, {"errors": ["rate limit quota exceeded"]})


def revoke_the_token(fake: FakeVault) -> None:
    fake.answer("", 403, {"errors": ["permission denied"]})


def forbid(fake: FakeVault) -> None:
    """The token is good; no policy lets it do its work."""
    for mount in fake.mounts:
        fake.answer(f"{mount}", 403, {"errors": ["permission denied"]})
    fake.answer("revoke-accessor", 403, {"errors": ["permission denied"]})


def unmount(fake: FakeVault) -> None:
    for mount in fake.mounts:
        fake.answer(f"{mount}", 404, {"errors": ['no handler for route "x". route entry not found.']})


FAILURES = {
    "sealed": (seal, "secret_store_sealed", True),
    "silent": (fall_silent, "secret_store_timeout", True),
    "down": (go_away, "secret_store_unavailable", True),
    "standby": (stand_by, "secret_store_standby", True),
    "busy": (limit, "secret_store_busy", True),
    "token revoked": (revoke_the_token, "secret_store_login_refused", False),
    "permission lost": (forbid, "secret_store_permission_denied", False),
    "mount missing": (unmount, "secret_store_misconfigured", False),
}
every_failure = pytest.mark.parametrize(
    ("fail", "code", "passes"), [pytest.param(*failure, id=name) for name, failure in FAILURES.items()]
)
every_code = pytest.mark.parametrize(
    ("fail", "code"), [pytest.param(fail, code, id=name) for name, (fail, code, _) in FAILURES.items()]
)
whatever_fails = pytest.mark.parametrize(
    "fail", [pytest.param(fail, id=name) for name, (fail, _, _) in FAILURES.items()]
)
Fail = Callable[[FakeVault], None]


def said(answers: dict[str, httpx.Response]) -> dict[str, tuple[int, str]]:
    return {name: refusal(response) for name, response in answers.items()}


@pytest.fixture
async def served(
    prepared_fake: Prepared,
    served_vault: ServedVault,
    services: Services,
    database: Database,
    tenant: Tenant,
    make_token: MakeToken,
) -> AsyncIterator[Serving]:
    async with (
        # Short, so that silence is: every other failure is answered long before.
        prepared_fake.store(deadline_seconds=0.5) as store,
        serving(
            services, database, tenant, make_token, store=store, vault_address=served_vault.address
        ) as found,
    ):
        yield found
        served_vault.fake.obey()


class TestClients:
    @every_failure
    async def test_are_told_what_it_is(
        self, served: Serving, served_vault: ServedVault, fail: Fail, code: str, passes: bool
    ) -> None:
        fail(served_vault.fake)

        answers = await served.use_vault()

        assert said(answers) == dict.fromkeys(answers, (503, code))
        for response in answers.values():
            assert ("Retry-After" in response.headers) is passes
            assert response.headers["Content-Type"] == "application/problem+json"

    @whatever_fails
    async def test_have_metadata_all_the_same(
        self, served: Serving, served_vault: ServedVault, fail: Fail
    ) -> None:
        fail(served_vault.fake)
        served_vault.fake.asked.clear()

        answers = await served.manage_without_vault()

        assert {name: response.status_code for name, response in answers.items()} == dict.fromkeys(
            answers, 200
        )
        assert served_vault.fake.asked == []

    @whatever_fails
    async def test_see_checks_that_could_not_be_made(
        self, served: Serving, served_vault: ServedVault, fail: Fail
    ) -> None:
        fail(served_vault.fake)

        response = await served.admin.post(f"{served.path}/validations")

        assert response.status_code == 201
        found = response.json()
        assert (found["status"], found["reason"]) == ("indeterminate", "secret_store_unavailable")
        credential = (await served.admin.get(served.path)).json()
        assert credential["validation"]["status"] == "valid"

    async def test_are_served_again_once_it_is_back(self, served: Serving, served_vault: ServedVault) -> None:
        seal(served_vault.fake)
        sealed = await served.lease()
        served_vault.fake.obey()

        assert refusal(sealed) == (503, "secret_store_sealed")
        assert (await served.lease()).status_code == 201
        assert (await served.admin.create()).status_code == 201


class TestReadiness:
    @every_code
    async def test_names_what_it_is(
        self, served: Serving, served_vault: ServedVault, fail: Fail, code: str
    ) -> None:
        fail(served_vault.fake)

        response = await served.readyz()

        assert response.status_code == 503
        assert response.json() == {
            "status": "not_ready",
            "dependencies": {"secret_store": "down"},
            "problems": {"secret_store": code},
        }
        assert (await served.admin.http.get("/livez")).status_code == 200
