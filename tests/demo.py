"""`make demo`: shows the main use cases step by step, against a fake provider.

Starts the real service as a separate process with a temporary data directory and a free port. The exit code is 0 only if
every step has the expected result.
"""

import asyncio
import sys
from pathlib import Path
from typing import Any

import httpx

from tests.support.processes.service import Service, running
from tests.support.provider.fake_anthropic import FakeAnthropic, make_key, serve
from tests.support.relay.demo import use_the_key_with_an_sdk

ORGANIZATION, OTHER_ORGANIZATION = "org_acme", "org_globex"


class Demo:
    """Prints the steps and their results, and counts the unexpected ones."""

    def __init__(self) -> None:
        self.failures = 0
        self._steps = 0

    def step(self, title: str) -> None:
        self._steps += 1
        print(f"\n{self._steps}. {title}", flush=True)

    def show(self, name: str, value: object) -> None:
        print(f"   {name:<13}{value}", flush=True)

    def expect(self, expectation: str, *, holds: bool) -> None:
        self.failures += not holds
        print(f"   {'ok   ' if holds else 'WRONG'} {expectation}", flush=True)


class Admin:
    """A billing admin of one organization, with a token for only that organization."""

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
    demo, key = Demo(), make_key()
    print("Pharaoh BYOK: an organization uses its own Anthropic key. The provider in this demo is a fake.")
    async with serve() as provider:
        demo.step(
            "Start the service with the embedded PostgreSQL and the embedded secret store, without configuration"
        )
        async with running(PROVIDER__DEFAULT_BASE_URL=provider.base_url) as service:
            demo.show("URL", service.http.base_url)
            admin = await admin_of(service, ORGANIZATION)
            credential_id = await save_a_key(demo, admin, key)
            await reject_unusable_keys(demo, admin, provider.fake, key, credential_id)
            await keep_organizations_apart(
                demo, await admin_of(service, OTHER_ORGANIZATION), credential_id, key
            )
            await use_the_key_with_an_sdk(demo, service, provider.fake)
            await detect_a_revoked_key(demo, admin, provider.fake, key, credential_id)
            await show_the_audit_log(demo, admin)
            demo.step("Stop")
            demo.expect("the service and its PostgreSQL have stopped", holds=await stop_and_check(service))
            demo.expect(
                "no file of the service contains the key, including its logs",
                holds=not await asyncio.to_thread(files_containing, key, service.home),
            )
    print(
        "\nEvery step had the expected result. Next: make run"
        if not demo.failures
        else "\nA step had an unexpected result."
    )
    return 1 if demo.failures else 0


async def save_a_key(demo: Demo, admin: Admin, key: str) -> str:
    demo.step("Save a key: the service encrypts it, validates it with the provider, and shows it only masked")
    saved = await admin.save("Acme production", key)
    credential: dict[str, Any] = saved.json()
    for name in ("id", "label", "key_hint", "messages_url"):
        demo.show(name, credential[name])
    demo.show("fingerprint", f"{credential['fingerprint'][:19]}...")
    demo.show("validation", summary(credential["validation"]))
    demo.expect("the provider accepts the key", holds=credential["validation"]["status"] == "valid")
    demo.expect("the response does not contain the key", holds=key not in saved.text)
    return str(credential["id"])


async def reject_unusable_keys(
    demo: Demo, admin: Admin, fake: FakeAnthropic, key: str, credential_id: str
) -> None:
    demo.step("Save the same key again, a key that does not work, and an Admin API key")
    again = await admin.save("Acme production, pasted twice", key)
    demo.show("same key", problem(again))
    demo.expect(
        "the error names the credential that has the key",
        holds=again.json()["credential_id"] == credential_id,
    )
    wrong = await admin.save("Acme staging", make_key("invalid"))
    demo.show("wrong key", f"{wrong.status_code} {summary(wrong.json()['validation'])}")
    demo.expect(
        "the credential is saved, and its validation is invalid",
        holds=wrong.json()["validation"]["status"] == "invalid",
    )
    admin_key = make_key().replace("-api03-", "-admin01-")
    refused = await admin.save("Oops", admin_key)
    demo.show("admin key", problem(refused))
    is_refused = refused.json()["code"] == "admin_key" and not fake.requests_of(admin_key)
    demo.expect("the Admin API key is rejected without a request to the provider", holds=is_refused)


async def keep_organizations_apart(demo: Demo, other_admin: Admin, credential_id: str, key: str) -> None:
    demo.step("Read the credential as another organization")
    response = await other_admin.get(f"provider-credentials/{credential_id}")
    demo.show("read", problem(response))
    demo.expect("the credential does not exist for this organization", holds=response.status_code == 404)
    own = await other_admin.save("Globex", key)
    demo.expect("this organization can save the same key", holds=own.is_success)


async def detect_a_revoked_key(
    demo: Demo, admin: Admin, fake: FakeAnthropic, key: str, credential_id: str
) -> None:
    demo.step("Validate the key after it was revoked in the provider's console")
    fake.behave(key, "revoked")
    validated = await admin.post(f"provider-credentials/{credential_id}/validations")
    demo.show("validation", summary(validated.json()))
    demo.expect(
        "the validation reports that the key was revoked",
        holds=validated.json()["reason"] == "revoked_or_disabled",
    )


async def show_the_audit_log(demo: Demo, admin: Admin) -> None:
    demo.step("List the audit log, newest event first")
    events = (await admin.get("audit-events")).json()["data"]
    for event in events:
        demo.show(event["occurred_at"][11:19], f"{event['action']:<22} by {event['actor']}")
    actions = [event["action"] for event in reversed(events)]
    demo.expect(
        "the log has two saved keys with their validations, and one more validation",
        holds=actions == [*("credential.created", "credential.validated") * 2, "credential.validated"],
    )


async def stop_and_check(service: Service) -> bool:
    await service.stop()
    return service.postmaster is None


def files_containing(text: str, directory: Path) -> list[Path]:
    return [path for path in directory.rglob("*") if path.is_file() and text.encode() in path.read_bytes()]


def summary(validation: Any) -> str:
    return f"{validation['status']} ({validation['reason']})"


def problem(response: httpx.Response) -> str:
    """Format a problem. If a field is invalid, show the message of the first one."""
    found = response.json()
    message = found["errors"][0]["message"] if "errors" in found else found["detail"]
    return f"{response.status_code} {found['code']}: {message}"


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
