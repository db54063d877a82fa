"""A custom provider end to end: real DNS, TLS and addresses, in an internet that the test makes and breaks."""

import asyncio
import socket
from collections.abc import AsyncIterator

import dns.rcode
import pytest

from tests.e2e.namespaces import PRIVATE, PRIVATE_GATEWAY, Answer, fake_provider
from tests.e2e.scene import ALLOWED_HOST, FAKE, Scene, open_scene
from tests.e2e.service_in_namespace import Admin
from tests.fake_anthropic import make_key

pytestmark = pytest.mark.slow

REFUSED: dict[str, tuple[Answer, str]] = {
    "private": (["169.254.169.254"], "dns_private_address"),
    "public and private": ([FAKE, "127.0.0.1"], "dns_private_address"),
    "public and private of the other family": ([FAKE, "fd00::1"], "dns_private_address"),
    "in the operator's own network": ([PRIVATE_GATEWAY], "dns_private_address"),
    "no such name": (dns.rcode.NXDOMAIN, "dns_no_records"),
    "no addresses": ([], "dns_no_records"),
}
UNKNOWN: dict[str, Answer] = {"failure": dns.rcode.SERVFAIL, "silence": None}


@pytest.fixture(scope="module")
async def scene(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Scene]:
    async with open_scene(tmp_path_factory.mktemp("scene")) as scene:
        yield scene


@pytest.fixture
def admin(scene: Scene) -> Admin:
    return scene.service.admin()


@pytest.fixture
def host(scene: Scene) -> str:
    return scene.new_host()


class TestPublicAddress:
    async def test_a_custom_url_is_accepted_and_its_key_validated(
        self, scene: Scene, admin: Admin, host: str
    ) -> None:
        scene.net.zone.say(host, [FAKE])
        key = make_key()

        saved = await admin.save(f"https://{host}/v1/messages", api_key=key)

        assert saved.status_code == 201, saved.text
        assert saved.json()["messages_url"] == f"https://{host}/v1/messages"
        assert (saved.json()["validation"]["status"], saved.json()["validation"]["reason"]) == ("valid", "ok")
        (request,) = scene.fake.requests_of(key)
        assert (request.path, request.credential_header) == ("/v1/messages", "authorization")
        assert request.complaints == ()

    async def test_proxies_and_key_logs_of_the_environment_are_ignored(
        self, scene: Scene, admin: Admin, host: str
    ) -> None:
        scene.net.zone.say(host, [FAKE])

        saved = await admin.save(f"https://{host}")

        assert {"HTTPS_PROXY", "all_proxy", "SSLKEYLOGFILE"} <= set(scene.service.environment())
        assert saved.json()["validation"]["reason"] == "ok"
        assert scene.proxy.connections == 0
        assert not scene.key_log.exists()


class TestRebinding:
    @pytest.mark.parametrize("address", PRIVATE)
    async def test_between_saving_and_use_is_refused_and_nobody_is_dialled(
        self, scene: Scene, admin: Admin, address: str, host: str
    ) -> None:
        key = make_key()
        scene.net.zone.say(host, [FAKE])
        saved = await admin.save(f"https://{host}", api_key=key)
        before = scene.trapped()

        scene.net.zone.say(host, [address])
        verdict = await admin.validate(saved.json()["id"])

        assert saved.json()["validation"]["status"] == "valid"
        assert (verdict["status"], verdict["reason"]) == ("invalid", "address_refused")
        assert scene.trapped() == before
        assert len(scene.fake.requests_of(key)) == 1

    @pytest.mark.parametrize("address", PRIVATE)
    async def test_within_saving_is_refused_and_nobody_is_dialled(
        self, scene: Scene, admin: Admin, address: str, host: str
    ) -> None:
        before = scene.trapped()
        scene.net.zone.say(host, [FAKE], [address])

        saved = await admin.save(f"https://{host}")

        assert saved.status_code == 201, saved.text
        assert saved.json()["validation"]["reason"] == "address_refused"
        assert scene.trapped() == before

    @pytest.mark.parametrize("address", PRIVATE)
    async def test_somebody_who_dialled_would_have_been_counted(self, scene: Scene, address: str) -> None:
        before = scene.trapped()[address]

        (await scene.net.near.run(socket.create_connection, (address, 443))).close()

        async with asyncio.timeout(10):
            while scene.trapped()[address] == before:  # noqa: ASYNC110  # a listener tells nobody
                await asyncio.sleep(0.01)


class TestNames:
    @pytest.mark.parametrize(("answered", "code"), REFUSED.values(), ids=REFUSED)
    async def test_that_lead_nowhere_public_are_refused_and_nothing_is_saved(
        self, scene: Scene, admin: Admin, answered: Answer, code: str, host: str
    ) -> None:
        scene.net.zone.say(host, answered)

        refused = await admin.save(f"https://{host}")

        assert refused.status_code == 422
        (error,) = refused.json()["errors"]
        assert (error["field"], error["code"]) == ("base_url", code)
        assert await admin.saved() == []

    @pytest.mark.parametrize("answered", UNKNOWN.values(), ids=UNKNOWN)
    async def test_that_nobody_can_look_up_may_be_tried_again_and_nothing_is_saved(
        self, scene: Scene, admin: Admin, answered: Answer, host: str
    ) -> None:
        scene.net.zone.say(host, answered)

        refused = await admin.save(f"https://{host}")

        assert (refused.status_code, refused.json()["code"]) == (503, "dns_unavailable")
        assert await admin.saved() == []

    @pytest.mark.parametrize(
        ("answered", "reason"),
        [
            ([FAKE], "ok"),
            *REFUSED.values(),
            *((answered, "dns_unavailable") for answered in UNKNOWN.values()),
        ],
        ids=["public", *REFUSED, *UNKNOWN],
    )
    async def test_can_be_checked_before_saving_without_learning_addresses(
        self, scene: Scene, admin: Admin, answered: Answer, reason: str, host: str
    ) -> None:
        scene.net.zone.say(host, answered)

        checked = await admin.check_url(f"https://{host}")

        assert checked.status_code == 200
        assert (checked.json()["accepted"], checked.json()["reason"]) == (reason == "ok", reason)
        assert not any(address in checked.text for address in (FAKE, PRIVATE_GATEWAY, *PRIVATE))

    async def test_of_the_operators_own_gateway_may_lead_to_a_private_address(
        self, scene: Scene, admin: Admin
    ) -> None:
        scene.net.zone.say(ALLOWED_HOST, [PRIVATE_GATEWAY])
        async with fake_provider(scene.net.far, PRIVATE_GATEWAY, ALLOWED_HOST):
            saved = await admin.save(f"https://{ALLOWED_HOST}")

        assert saved.status_code == 201, saved.text
        assert saved.json()["validation"]["status"] == "valid"
