"""An internal service that works on an organization's own key: lease it, open it once, use it, forget it.

python lease_consumer.py org_acme "Why is the sky blue?"

From the environment: BYOK_URL and BYOK_TOKEN (`org=*`, scope `leases:create`), VAULT_ADDR, VAULT_NAMESPACE if there
is one, TRANSIT_MOUNT (byok-transit), MODEL. Needs httpx and nothing else. The text goes to standard output; which
key version did the work goes to standard error, for the usage event. The key goes nowhere but to the provider.
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

# Work begins only with so much of the lease left. Once a lease has expired its key counts as given back:
# the admin may be told that it is safe to revoke.
MARGIN = timedelta(seconds=5)
LEASE_SECONDS = 60
ANTHROPIC_VERSION = "2023-06-01"


class LeaseRefused(Exception):
    """No key for this work. `code` is the problem's: `mode_is_managed`, `not_ready`, `secret_store_sealed`, ..."""

    def __init__(self, code: str, blockers: object = None) -> None:
        super().__init__(f"no lease: {code}" + (f" {blockers}" if blockers else ""))
        self.code = code


class LeaseCompromised(Exception):
    """Somebody was there before us: the key may be known to others. Rotate it, and look into Vault's audit log."""


class ProviderRefused(Exception):
    """The provider's answer was no success."""

    def __init__(self, status: int) -> None:
        super().__init__(f"the provider answered {status}")
        self.status = status


@dataclass(frozen=True, kw_only=True)
class Vault:
    """Our own configuration. A lease may name whatever it likes: tokens are opened here and nowhere else."""

    address: str
    transit_mount: str = "byok-transit"
    namespace: str | None = None

    def expected_path(self, organization: str) -> str:
        """Where the service makes tokens of this organization, and nobody else may."""
        return f"{self.transit_mount}/decrypt/org.{organization}.key"


@dataclass(frozen=True, kw_only=True)
class OpenedLease:
    """A key to work with for a moment. Not for logs, caches, queues or other processes: shown without the key."""

    lease_id: str
    credential_id: str
    key_version: int
    expires_at: datetime
    messages_url: str
    headers: Mapping[str, str] = field(repr=False)

    @property
    def is_good(self) -> bool:
        return datetime.now(UTC) < self.expires_at - MARGIN


def lease(http: httpx.Client, url: str, token: str, organization: str) -> dict[str, Any]:
    """Ask for the key in force. What comes back holds a token that opens once, not the key."""
    response = http.post(
        f"{url}/v1/organizations/{organization}/credential-leases",
        headers={"Authorization": f"Bearer {token}"},
        json={"ttl_seconds": LEASE_SECONDS},
    )
    answer: dict[str, Any] = response.json()
    if response.status_code != httpx.codes.CREATED:
        raise LeaseRefused(answer["code"], answer.get("blockers"))
    return answer


def open_lease(http: httpx.Client, vault: Vault, organization: str, leased: Mapping[str, Any]) -> OpenedLease:
    """Look at the token, then open it: once, and only if the service made it for this organization.

    Raises:
        LeaseCompromised: made elsewhere, or opened by somebody else.
    """
    token = leased["wrapping_token"]
    # Looking does not open it. A token made elsewhere holds a key that somebody wants us to use.
    found = _vault(http, vault, "lookup", token)
    if not found["creation_path"] == leased["creation_path"] == vault.expected_path(organization):
        raise LeaseCompromised
    key = b64decode(_vault(http, vault, "unwrap", token)["plaintext"]).decode("ascii")
    headers = {"anthropic-version": ANTHROPIC_VERSION}
    # One of the two, never both, and never the other one when the first is refused.
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
    # A wrapping token is a log-in of its own: to be looked at and opened, and for nothing else.
    response = http.post(
        f"{vault.address}/v1/sys/wrapping/{operation}",
        headers={"X-Vault-Token": token, **namespace},
        json={"token": token} if operation == "lookup" else None,
    )
    if response.status_code in (httpx.codes.BAD_REQUEST, httpx.codes.FORBIDDEN):
        raise LeaseCompromised  # it does not open: expired, revoked with its key, or opened by another
    response.raise_for_status()
    data: dict[str, Any] = response.json()["data"]
    return data


def ask(http: httpx.Client, opened: OpenedLease, model: str, question: str) -> str:
    """Put a question to the provider, where this key belongs and nowhere else."""
    if not opened.is_good:
        raise LeaseRefused("lease_expired")
    body = {"model": model, "max_tokens": 1024, "messages": [{"role": "user", "content": question}]}
    # A redirect would carry the key on; httpx follows none unless told to.
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
            # Its name alone: an exception of an HTTP client holds the request, and with it the key.
            print(f"not reached: {type(error).__name__}", file=sys.stderr)
            return 1
    print(text)
    used = {
        "lease_id": opened.lease_id,
        "credential_id": opened.credential_id,
        "key_version": opened.key_version,
    }
    print(json.dumps(used), file=sys.stderr)
    # For the next piece of work lease again. Python cannot wipe memory; what is not kept is not there to leak.
    return 0


if __name__ == "__main__":
    sys.exit(main())
