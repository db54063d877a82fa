"""A hostile custom provider end to end: it sends us elsewhere, shows wrong certificates, and never ends."""

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta

import pytest
import trustme

from tests.e2e.namespaces import server_at
from tests.e2e.scene import ELSEWHERE, HOSTILE, WILDCARD, Scene, open_scene
from tests.e2e.service_in_namespace import Admin
from tests.integration.egress.far_side import AUTHORITY, Reader, Script, Writer, always, answer

pytestmark = pytest.mark.slow

MEGABYTE = 1024 * 1024
HEAD = b"HTTP/1.1 200 OK\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
CHUNK = b"10000\r\n" + bytes(0x10000) + b"\r\n"


def on_and_on(head: bytes, piece: bytes, *, pause: float = 0) -> Script:
    async def play(_reader: Reader, writer: Writer) -> None:
        writer.write(head)
        while True:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(
                pause
            )  # even if it is 0: drain alone may never let the loop see that the client left

    return play


def expired(host: str) -> trustme.LeafCert:
    return AUTHORITY.issue_cert(host, not_after=datetime.now(UTC) - timedelta(days=1))


CERTIFICATES: dict[str, Callable[[str], trustme.LeafCert]] = {
    "of another name": lambda _: AUTHORITY.issue_cert("somebody-else.example.net"),
    "of nobody we trust": lambda host: trustme.CA().issue_cert(host),
    "expired": expired,
}
ANSWERS: dict[str, tuple[Script, str]] = {
    "dripping headers": (on_and_on(HEAD + b"X: ", b"x", pause=0.01), "timeout"),
    "dripping body": (on_and_on(HEAD + b"\r\n", b"x", pause=0.01), "timeout"),
    "ten megabytes": (always(answer(bytes(10 * MEGABYTE))), "not_anthropic_compatible"),
    "endless body": (on_and_on(HEAD + b"\r\n", bytes(0x10000)), "not_anthropic_compatible"),
    "endless chunks": (on_and_on(CHUNKED, CHUNK), "not_anthropic_compatible"),
    "endless headers": (on_and_on(HEAD, b"X: y\r\n" * 1000), "unreachable"),
}


@pytest.fixture(scope="module")
async def scene(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Scene]:
    async with open_scene(tmp_path_factory.mktemp("scene")) as scene:
        yield scene


@pytest.fixture
def admin(scene: Scene) -> Admin:
    return scene.service.admin()


@pytest.fixture
def host(scene: Scene) -> str:
    """Leads to the hostile provider."""
    host = scene.new_host()
    scene.net.zone.say(host, [HOSTILE])
    return host


class TestRedirects:
    @pytest.mark.parametrize("target", ["127.0.0.1", "169.254.169.254", "[fd00::1]"])
    async def test_to_a_private_address_are_not_followed(
        self, scene: Scene, admin: Admin, target: str, host: str
    ) -> None:
        moved = answer(b"", f"Location: https://{target}/v1/messages", status="307 Temporary Redirect")
        before = scene.trapped()

        async with server_at(
            scene.net.far, HOSTILE, always(moved), cert=AUTHORITY.issue_cert(WILDCARD)
        ) as server:
            saved = await admin.save(f"https://{host}")

        assert saved.json()["validation"]["reason"] == "redirect_refused"
        assert len(server.requests) == 1
        assert scene.trapped() == before

    async def test_to_another_host_do_not_take_the_key_there(
        self, scene: Scene, admin: Admin, host: str
    ) -> None:
        other = scene.new_host()
        scene.net.zone.say(other, [ELSEWHERE])
        cert = AUTHORITY.issue_cert(WILDCARD)
        moved = answer(b"", f"Location: https://{other}/v1/messages", status="302 Found")

        async with (
            server_at(scene.net.far, HOSTILE, always(moved), cert=cert),
            server_at(scene.net.far, ELSEWHERE, always(answer()), cert=cert) as second,
        ):
            saved = await admin.save(f"https://{host}", auth_style="x_api_key")

        assert saved.json()["validation"]["reason"] == "redirect_refused"
        assert second.connections == 0


class TestCertificates:
    @pytest.mark.parametrize("issue", CERTIFICATES.values(), ids=CERTIFICATES)
    async def test_that_prove_nothing_end_the_connection_before_the_key_is_sent(
        self, scene: Scene, admin: Admin, issue: Callable[[str], trustme.LeafCert], host: str
    ) -> None:
        async with server_at(scene.net.far, HOSTILE, always(answer()), cert=issue(host)) as server:
            saved = await admin.save(f"https://{host}")

        assert saved.json()["validation"]["reason"] == "tls_error"
        assert server.requests == []


class TestAnswers:
    async def test_that_do_not_end_are_cut_off_and_take_no_memory(self, scene: Scene, admin: Admin) -> None:
        reasons: dict[str, str] = {}
        before = scene.service.peak_memory()

        for name, (play, _) in ANSWERS.items():
            host = scene.new_host()  # a host that hangs is left alone for a while
            scene.net.zone.say(host, [HOSTILE])
            async with server_at(scene.net.far, HOSTILE, play, cert=AUTHORITY.issue_cert(WILDCARD)):
                saved = await admin.save(f"https://{host}")
            reasons[name] = saved.json()["validation"]["reason"]

        assert reasons == {name: reason for name, (_, reason) in ANSWERS.items()}
        assert scene.service.peak_memory() - before < 50 * MEGABYTE
