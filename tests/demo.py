"""`make demo`: the whole story against a fake provider, step by step, for somebody who is new here.

It starts the real service as a process of its own, on a temporary data directory and a free port,
and ends with exit code 0 only if everything went as told.
"""

import asyncio
import sys
from pathlib import Path
from typing import Any

import httpx

from tests.e2e.service import Service, running
from tests.fake_anthropic import FakeAnthropic, make_key, serve

ORGANIZATION, NEIGHBOUR = "org_acme", "org_globex"


class Story:
    """Tells what it does, and keeps count of what did not go as told."""

    def __init__(self) -> None:
        self.surprises = 0
        self._steps = 0

    def step(self, title: str) -> None:
        self._steps += 1
        print(f"\n{self._steps}. {title}", flush=True)

    def tell(self, name: str, value: object) -> None:
        print(f"   {name:<13}{value}", flush=True)

    def expect(self, what: str, *, holds: bool) -> None:
        self.surprises += not holds
        print(f"   {'ok   ' if holds else 'WRONG'} {what}", flush=True)


class Admin:
    """A billing admin of one organization, with a token for it alone."""

    def __init__(self, service: Service, organization: str, token: str) -> None:
        self._http = service.http
        self._path = f"/v1/organizations/{organization}"
        self._headers = {"Authorization": f"Bearer {token}"}

    async def get(self, path: str) -> httpx.Response:
        return await self._http.get(f"{self._path}/{path}", headers=self._headers)

    async def post(self, path: str, body: Any = None) -> httpx.Response:
        return await self._http.post(f"{self._path}/{path}", headers=self._headers, json=body)

    async def save(self, label: str, key: str) -> httpx.Response:
        return await self.post("provider-credentials", {"label": label, "api_key": key})


async def admin_of(service: Service, organization: str) -> Admin:
    return Admin(service, organization, await service.token("billing-admin", organization))


async def main() -> int:
    story, key = Story(), make_key()
    print("Pharaoh BYOK: an organization brings its own Anthropic key. The provider here is a fake.")
    async with serve() as provider:
        story.step("Start the service: embedded PostgreSQL, embedded sealed store, nothing to configure")
        async with running(PROVIDER__DEFAULT_BASE_URL=provider.base_url) as service:
            story.tell("listens at", service.http.base_url)
            admin = await admin_of(service, ORGANIZATION)
            credential_id = await save_a_key(story, admin, key)
            await refuse_what_cannot_be(story, admin, provider.fake, key, credential_id)
            await keep_organizations_apart(story, await admin_of(service, NEIGHBOUR), credential_id, key)
            await notice_a_revoked_key(story, admin, provider.fake, key, credential_id)
            await show_the_trail(story, admin)
            story.step("Stop")
            story.expect("the service and its PostgreSQL are gone", holds=await stops(service))
            story.expect(
                "no file it leaves behind, logs included, holds the key",
                holds=not await asyncio.to_thread(files_with, key, service.home),
            )
    print("\nEverything went as told. Next: make run" if not story.surprises else "\nSomething went wrong.")
    return 1 if story.surprises else 0


async def save_a_key(story: Story, admin: Admin, key: str) -> str:
    story.step("An admin pastes a key. It is sealed, tried with the provider, and shown only masked")
    saved = await admin.save("Acme production", key)
    credential: dict[str, Any] = saved.json()
    for name in ("id", "label", "key_hint", "messages_url"):
        story.tell(name, credential[name])
    story.tell("fingerprint", f"{credential['fingerprint'][:19]}...")
    story.tell("validation", verdict(credential["validation"]))
    story.expect("the provider accepts the key", holds=credential["validation"]["status"] == "valid")
    story.expect("the answer does not hold the key", holds=key not in saved.text)
    return str(credential["id"])


async def refuse_what_cannot_be(
    story: Story, admin: Admin, fake: FakeAnthropic, key: str, credential_id: str
) -> None:
    story.step("The same key once more, a key that does not work, and one that must not be used")
    again = await admin.save("Acme production, pasted twice", key)
    story.tell("same key", problem(again))
    story.expect("it names the credential that has it", holds=again.json()["credential_id"] == credential_id)
    wrong = await admin.save("Acme staging", make_key("invalid"))
    story.tell("wrong key", f"{wrong.status_code} {verdict(wrong.json()['validation'])}")
    story.expect("it is kept and shown as invalid", holds=wrong.json()["validation"]["status"] == "invalid")
    powerful = make_key().replace("-api03-", "-admin01-")
    refused = await admin.save("Oops", powerful)
    story.tell("admin key", problem(refused))
    is_refused = refused.json()["code"] == "admin_key" and not fake.requests_of(powerful)
    story.expect("it is refused before the provider is asked", holds=is_refused)


async def keep_organizations_apart(story: Story, stranger: Admin, credential_id: str, key: str) -> None:
    story.step("Another organization sees nothing of it")
    seen = await stranger.get(f"provider-credentials/{credential_id}")
    story.tell("read it", problem(seen))
    story.expect("it does not exist for them", holds=seen.status_code == 404)
    own = await stranger.save("Globex", key)
    story.expect("the same key in their name is no conflict", holds=own.is_success)


async def notice_a_revoked_key(
    story: Story, admin: Admin, fake: FakeAnthropic, key: str, credential_id: str
) -> None:
    story.step("Somebody revokes the key in the provider's console; the admin asks for a check")
    fake.behave(key, "revoked")
    checked = await admin.post(f"provider-credentials/{credential_id}/validations")
    story.tell("this check", verdict(checked.json()))
    story.expect("it is noticed", holds=checked.json()["reason"] == "revoked_or_disabled")


async def show_the_trail(story: Story, admin: Admin) -> None:
    story.step("Who did what, newest first")
    events = (await admin.get("audit-events")).json()["data"]
    for event in events:
        story.tell(event["occurred_at"][11:19], f"{event['action']:<22} by {event['actor']}")
    actions = [event["action"] for event in reversed(events)]
    story.expect(
        "two keys were saved and checked, and one was checked again",
        holds=actions == [*("credential.created", "credential.validated") * 2, "credential.validated"],
    )


async def stops(service: Service) -> bool:
    await service.stop()
    return service.postmaster is None


def files_with(text: str, directory: Path) -> list[Path]:
    return [path for path in directory.rglob("*") if path.is_file() and text.encode() in path.read_bytes()]


def verdict(validation: Any) -> str:
    return f"{validation['status']} ({validation['reason']})"


def problem(response: httpx.Response) -> str:
    """Of a field that is wrong, its own message says more."""
    found = response.json()
    said = found["errors"][0]["message"] if "errors" in found else found["detail"]
    return f"{response.status_code} {found['code']}: {said}"


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
