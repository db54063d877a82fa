"""An internal service that works with an organization's own key: it leases the key, unwraps it once and uses it.

python lease_consumer.py org_acme "Why is the sky blue?"

Environment variables: BYOK_URL and BYOK_TOKEN (`org=*`, scope `leases:create`), VAULT_ADDR, VAULT_NAMESPACE if the
server has namespaces, TRANSIT_MOUNT (byok-transit), MODEL. Requires only httpx. The text goes to standard output. The
key version that was used goes to standard error, for the usage event. The key goes only to the provider.
"""

import json
import os
import sys
from base64 import b64decode
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx

# Work begins only if more than this is left of the lease. After its expiry the key counts as returned:
# the service may report to the admin that it is safe to revoke.
MARGIN = timedelta(seconds=5)
LEASE_SECONDS = 60
ANTHROPIC_VERSION = "2023-06-01"


class LeaseRefused(Exception):
    """The service grants no lease. `code` is the problem's code: `mode_is_managed`, `not_ready`, `secret_store_sealed`, ..."""

    def __init__(self, code: str, blockers: object = None) -> None:
        super().__init__(f"no lease: {code}" + (f" {blockers}" if blockers else ""))
        self.code = code


class LeaseCompromised(Exception):
    """The token was created or unwrapped elsewhere, so the key may be known. Rotate it, and check Vault's audit log."""


class ProviderRefused(Exception):
    """The provider did not respond with success."""

    def __init__(self, status: int) -> None:
        super().__init__(f"the provider responded with {status}")
        self.status = status


@dataclass(frozen=True, kw_only=True)
class Vault:
    """The Vault of this service's configuration. Tokens are unwrapped only there, whatever address a lease names."""

    address: str
    transit_mount: str = "byok-transit"
    namespace: str | None = None

    def expected_path(self, organization: str) -> str:
        """The path at which only the service may create tokens for this organization."""
        return f"{self.transit_mount}/decrypt/org.{organization}.key"


@dataclass(frozen=True, kw_only=True)
class OpenedLease:
    """A key for short use. Keep it out of logs, caches, queues and other processes. Its repr omits the key."""

    lease_id: str
    credential_id: str
    key_version: int
    expires_at: datetime
    messages_url: str
    headers: Mapping[str, str] = field(repr=False)

    @property
    def is_valid(self) -> bool:
        return datetime.now(UTC) < self.expires_at - MARGIN


def lease(http: httpx.Client, url: str, token: str, organization: str) -> dict[str, Any]:
    """Lease the active key. The response holds a single-use token, not the key."""
    response = http.post(
        f"{url}/v1/organizations/{organization}/credential-leases",
        headers={"Authorization": f"Bearer {token}"},
        json={"ttl_seconds": LEASE_SECONDS},
    )
    body: dict[str, Any] = response.json()
    if response.status_code != httpx.codes.CREATED:
        raise LeaseRefused(body["code"], body.get("blockers"))
    return body


def open_lease(http: httpx.Client, vault: Vault, organization: str, leased: Mapping[str, Any]) -> OpenedLease:
    """Look up the token, then unwrap it, only if the service created it for this organization.

    Raises:
        LeaseCompromised: the token was created elsewhere, or cannot be unwrapped any more.
    """
    token = leased["wrapping_token"]
    # A lookup does not unwrap. A token that was created elsewhere may hold an attacker's key.
    found = _vault(http, vault, "lookup", token)
    if not found["creation_path"] == leased["creation_path"] == vault.expected_path(organization):
        raise LeaseCompromised
    key = b64decode(_vault(http, vault, "unwrap", token)["plaintext"]).decode("ascii")
    headers = {"anthropic-version": ANTHROPIC_VERSION}
    # Exactly one of the two headers. Do not try the other one if the provider refuses the first.
    if leased["auth_style"] == "bearer":
        headers["Authorization"] = f"Bearer {key}"
    else:
        headers["x-api-key"] = key
    if leased["workspace_id"] is not None:
        headers["anthropic-workspace-id"] = leased["workspace_id"]
    return OpenedLease(
        lease_id=leased["lease_id"],
        credential_id=leased["credential_id"],
        key_version=leased["key_version"],
        expires_at=datetime.fromisoformat(leased["expires_at"]),
        messages_url=leased["messages_url"],
        headers=headers,
    )


def _vault(http: httpx.Client, vault: Vault, operation: str, token: str) -> dict[str, Any]:
    namespace = {} if vault.namespace is None else {"X-Vault-Namespace": vault.namespace}
    # A wrapping token authenticates its own lookup and unwrapping, and can do nothing more.
    response = http.post(
        f"{vault.address}/v1/sys/wrapping/{operation}",
        headers={"X-Vault-Token": token, **namespace},
        json={"token": token} if operation == "lookup" else None,
    )
    if response.status_code in (httpx.codes.BAD_REQUEST, httpx.codes.FORBIDDEN):
        raise LeaseCompromised  # expired, revoked with its key, or unwrapped by another client
    response.raise_for_status()
    data: dict[str, Any] = response.json()["data"]
    return data


def ask(http: httpx.Client, opened: OpenedLease, model: str, question: str) -> str:
    """Send a question to the provider endpoint that this key belongs to, and to no other address."""
    if not opened.is_valid:
        raise LeaseRefused("lease_expired")
    body = {"model": model, "max_tokens": 1024, "messages": [{"role": "user", "content": question}]}
    # A redirect would send the key to another address. httpx does not follow redirects by default.
    response = http.post(opened.messages_url, headers=opened.headers, json=body, timeout=600)
    if response.status_code != httpx.codes.OK:
        raise ProviderRefused(response.status_code)
    return "".join(part["text"] for part in response.json()["content"] if part["type"] == "text")


def main() -> int:
    organization, question = sys.argv[1:3]
    vault = Vault(
        address=os.environ["VAULT_ADDR"],
        transit_mount=os.environ.get("TRANSIT_MOUNT", "byok-transit"),
        namespace=os.environ.get("VAULT_NAMESPACE"),
    )
    url, token = os.environ["BYOK_URL"], os.environ["BYOK_TOKEN"]
    with httpx.Client(timeout=30) as http:
        try:
            opened = open_lease(http, vault, organization, lease(http, url, token, organization))
            text = ask(http, opened, os.environ.get("MODEL", "claude-haiku-5-5"), question)
        except (LeaseRefused, LeaseCompromised, ProviderRefused) as refusal:
            print(f"{type(refusal).__name__}: {refusal}", file=sys.stderr)
            return 1
        except httpx.HTTPError as error:
            # Only the type: the exception of an HTTP client holds the request, and so the key.
            print(f"connection failed: {type(error).__name__}", file=sys.stderr)
            return 1
    print(text)
    used = {
        "lease_id": opened.lease_id,
        "credential_id": opened.credential_id,
        "key_version": opened.key_version,
    }
    print(json.dumps(used), file=sys.stderr)
    # Lease again for the next piece of work. Python cannot wipe memory, but a key that is not kept cannot leak later.
    return 0


if __name__ == "__main__":
    sys.exit(main())
