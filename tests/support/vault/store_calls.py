"""Every call of the Vault store, by name, and the reason for which a call fails."""

from collections.abc import Awaitable, Callable
from uuid import uuid4

import pytest

from app.secret_store.port import SecretRef
from app.secret_store.vault.responses import ERRORS_BY_REASON, VaultReason, VaultUnavailable
from app.secret_store.vault.store import VaultSecretStore
from tests.support.credentials.sample_keys import make_key

Call = Callable[[VaultSecretStore, SecretRef], Awaitable[object]]
CALLS: dict[str, Call] = {
    "fingerprint": lambda store, _ref: store.fingerprint("org_a", make_key()),
    "current_version": lambda store, ref: store.current_version(ref),
    "write": lambda store, ref: store.write(ref, make_key(), intent_id=uuid4(), expected_version=1),
    "tombstone": lambda store, ref: store.tombstone(ref, intent_id=uuid4(), expected_version=1),
    "intent_at": lambda store, ref: store.intent_at(ref, 1),
    "read": lambda store, ref: store.read(ref, 1),
    "destroy": lambda store, ref: store.destroy(ref, 1),
    "destroy_all": lambda store, ref: store.destroy_all(ref),
    "ping": lambda store, _ref: store.ping(),
    "wrap_for_lease": lambda store, ref: store.wrap_for_lease(ref, 1, 60),
    "revoke_wrapping": lambda store, _ref: store.revoke_wrapping("accessor"),
    "rewrap": lambda store, ref: store.rewrap(ref, 1, intent_id=uuid4(), expected_version=1),
}
every_call = pytest.mark.parametrize("call", [pytest.param(call, id=name) for name, call in CALLS.items()])


async def reason_of(work: Awaitable[object]) -> VaultReason:
    with pytest.raises(VaultUnavailable) as refusal:
        await work
    assert refusal.value.code == ERRORS_BY_REASON[refusal.value.reason].code
    assert refusal.value.__cause__ is None
    assert refusal.value.__context__ is None
    return refusal.value.reason
