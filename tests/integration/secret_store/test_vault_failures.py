"""Failures of Vault: each has its reason, none hangs, and none leaks the response."""

import asyncio
import json
import traceback
from typing import Any
from uuid import uuid4

import pytest
import structlog

from app.secret_store.port import SecretRef
from app.secret_store.vault.responses import VaultReason
from app.secret_store.vault.store import VaultSecretStore
from tests.support.credentials.sample_keys import make_key, write
from tests.support.vault.fake import ServedVault
from tests.support.vault.prepared import PreparedVault
from tests.support.vault.store_calls import Call, every_call, reason_of

CANARY = "sk-ant-api03-canary-that-must-not-be-seen"
SEALED = {"errors": ["Vault is sealed"]}
UPGRADING = {"errors": ["Upgrading from non-versioned to versioned data. This backend will be unavailable"]}


@pytest.fixture
async def store_with_key(fake_vault: VaultSecretStore, ref: SecretRef) -> VaultSecretStore:
    """A store over the fake that is logged in and holds a key."""
    await write(fake_vault, ref)
    return fake_vault


class TestErrorResponses:
    @pytest.mark.parametrize(
        ("status", "body", "reason"),
        [
            (503, SEALED, VaultReason.SEALED),
            (503, {"errors": ["error performing token check: Vault is sealed"]}, VaultReason.SEALED),
            (503, b"<html>no healthy upstream</html>", VaultReason.UNREACHABLE),
            (501, {"errors": []}, VaultReason.SEALED),
            (429, {"errors": ["request path: rate limit quota exceeded"]}, VaultReason.QUOTA),
            (412, {"errors": ["required index state not present"]}, VaultReason.STANDBY),
            (472, b"", VaultReason.STANDBY),
            (473, b"", VaultReason.STANDBY),
            (307, b"", VaultReason.STANDBY),
            (
                500,
                {"errors": ["local node not active but active cluster node not found"]},
                VaultReason.STANDBY,
            ),
            (500, {"errors": ["1 error occurred"]}, VaultReason.UNEXPECTED),
            (502, b"<html>", VaultReason.UNREACHABLE),
            (504, b"<html>", VaultReason.UNREACHABLE),
            (
                404,
                {"errors": ['no handler for route "x". route entry not found.']},
                VaultReason.MOUNT_MISSING,
            ),
            (403, {"errors": ["permission denied"]}, VaultReason.PERMISSION_DENIED),
            (400, UPGRADING, VaultReason.STANDBY),
            (204, b"", VaultReason.UNEXPECTED),
            (200, b"not json", VaultReason.UNEXPECTED),
            (200, [1], VaultReason.UNEXPECTED),
            (418, b"", VaultReason.UNEXPECTED),
        ],
    )
    async def test_have_specific_reasons(
        self,
        store_with_key: VaultSecretStore,
        served_vault: ServedVault,
        status: int,
        body: Any,
        reason: VaultReason,
    ) -> None:
        served_vault.fake.script_response("/hmac/", status, body)

        assert await reason_of(store_with_key.fingerprint("org_a", make_key())) is reason

    @every_call
    async def test_fail_every_call_with_the_same_reason(
        self, store_with_key: VaultSecretStore, served_vault: ServedVault, ref: SecretRef, call: Call
    ) -> None:
        served_vault.fake.script_response("", 503, SEALED)

        assert await reason_of(call(store_with_key, ref)) is VaultReason.SEALED

    @every_call
    @pytest.mark.parametrize("status", [200, 400, 403, 404, 418, 500, 503])
    async def test_never_leak_their_content(
        self,
        store_with_key: VaultSecretStore,
        served_vault: ServedVault,
        ref: SecretRef,
        call: Call,
        status: int,
    ) -> None:
        served_vault.fake.script_response("/", status, {"data": {"x": CANARY}, "errors": [CANARY]})

        with structlog.testing.capture_logs() as logs:
            try:
                outcome: object = await call(store_with_key, ref)
            except Exception as error:  # noqa: BLE001  # any exception must hide the content
                outcome = error

        shown = [str(outcome), repr(outcome), json.dumps(logs, default=repr)]
        if isinstance(outcome, BaseException):
            assert type(outcome).__module__.startswith("app.")
            shown.append("".join(traceback.format_exception(outcome)))
        assert CANARY not in "".join(shown)

    async def test_are_logged_only_with_the_reason(
        self, store_with_key: VaultSecretStore, served_vault: ServedVault
    ) -> None:
        served_vault.fake.script_response("/hmac/", 503, SEALED)

        with structlog.testing.capture_logs() as logs:
            await reason_of(store_with_key.fingerprint("org_a", make_key()))

        assert logs == [{"event": "vault_unavailable", "reason": "sealed", "log_level": "warning"}]


class TestTransientErrors:
    @pytest.mark.parametrize(("status", "body"), [(400, UPGRADING), (412, {"errors": ["required index"]})])
    async def test_are_retried(
        self,
        store_with_key: VaultSecretStore,
        served_vault: ServedVault,
        ref: SecretRef,
        status: int,
        body: Any,
    ) -> None:
        served_vault.fake.script_response("/data/", status, body, times=2)

        assert await store_with_key.intent_at(ref, 1) is not None

    async def test_a_lagging_replica_is_read_again(
        self, store_with_key: VaultSecretStore, served_vault: ServedVault, ref: SecretRef
    ) -> None:
        served_vault.fake.script_response("/data/", 404, {"errors": []}, times=2)

        assert await store_with_key.intent_at(ref, 1) is not None

    async def test_a_lagging_list_of_versions_does_not_limit_destroy_all(
        self, store_with_key: VaultSecretStore, served_vault: ServedVault, ref: SecretRef
    ) -> None:
        await write(store_with_key, ref, expected_version=1)
        lagging = {"data": {"current_version": 1, "versions": {"1": {}}}}
        served_vault.fake.script_response("/metadata/", 200, lagging, times=1)

        await store_with_key.destroy_all(ref)

        assert await store_with_key.intent_at(ref, 1) is None
        assert await store_with_key.intent_at(ref, 2) is None

    async def test_a_write_whose_response_was_lost_is_found(
        self, store_with_key: VaultSecretStore, served_vault: ServedVault, ref: SecretRef
    ) -> None:
        intent_id = uuid4()
        await store_with_key.write(ref, make_key(), intent_id=intent_id, expected_version=1)
        mismatch = {"errors": ["check-and-set parameter did not match the current version"]}
        served_vault.fake.script_response("/data/", 400, mismatch, times=1)

        assert await store_with_key.write(ref, make_key(), intent_id=intent_id, expected_version=1) == 2


class TestTimeouts:
    @every_call
    async def test_end_every_call_at_the_deadline(
        self, prepared_fake: PreparedVault, served_vault: ServedVault, ref: SecretRef, call: Call
    ) -> None:
        async with prepared_fake.store(deadline_seconds=0.1) as store:
            served_vault.fake.unblocked.clear()

            assert await reason_of(call(store, ref)) is VaultReason.TIMEOUT

            served_vault.fake.unblocked.set()

    async def test_free_their_threads_for_later_calls(
        self, prepared_fake: PreparedVault, served_vault: ServedVault
    ) -> None:
        async with prepared_fake.store(deadline_seconds=0.1) as store:
            served_vault.fake.unblocked.clear()
            reasons = await asyncio.gather(*(reason_of(store.ping()) for _ in range(40)))
            served_vault.fake.unblocked.set()

        async with prepared_fake.store() as store:
            await store.ping()
        assert set(reasons) == {VaultReason.TIMEOUT}
