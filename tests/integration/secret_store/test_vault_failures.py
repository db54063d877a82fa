"""Vault fails: each failure has its own reason, none hangs, and nothing of Vault's answer gets out."""

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
from tests.fake_vault import ServedVault
from tests.integration.secret_store.calls import Call, every_call, reason_of
from tests.integration.secret_store.keys import make_key, write
from tests.integration.secret_store.vaults import Prepared

CANARY = "sk-ant-api03-canary-that-must-not-be-seen"
SEALED = {"errors": ["Vault is sealed"]}
UPGRADING = {"errors": ["Upgrading from non-versioned to versioned data. This backend will be unavailable"]}


@pytest.fixture
async def written(fake_vault: VaultSecretStore, ref: SecretRef) -> VaultSecretStore:
    """A store over the fake that holds a key, logged in."""
    await write(fake_vault, ref)
    return fake_vault


class TestAnswers:
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
    async def test_have_their_reasons(
        self,
        written: VaultSecretStore,
        served_vault: ServedVault,
        status: int,
        body: Any,
        reason: VaultReason,
    ) -> None:
        served_vault.fake.answer("/hmac/", status, body)

        assert await reason_of(written.fingerprint("org_a", make_key())) is reason

    @every_call
    async def test_of_a_sealed_vault_fail_every_call(
        self, written: VaultSecretStore, served_vault: ServedVault, ref: SecretRef, call: Call
    ) -> None:
        served_vault.fake.answer("", 503, SEALED)

        assert await reason_of(call(written, ref)) is VaultReason.SEALED

    @every_call
    @pytest.mark.parametrize("status", [200, 400, 403, 404, 418, 500, 503])
    async def test_never_show_what_they_hold(
        self, written: VaultSecretStore, served_vault: ServedVault, ref: SecretRef, call: Call, status: int
    ) -> None:
        served_vault.fake.answer("/", status, {"data": {"x": CANARY}, "errors": [CANARY]})

        with structlog.testing.capture_logs() as logs:
            try:
                outcome: object = await call(written, ref)
            except Exception as error:  # noqa: BLE001  # whatever it is, it must be silent
                outcome = error

        shown = [str(outcome), repr(outcome), json.dumps(logs, default=repr)]
        if isinstance(outcome, BaseException):
            assert type(outcome).__module__.startswith("app.")
            shown.append("".join(traceback.format_exception(outcome)))
        assert CANARY not in "".join(shown)

    async def test_are_logged_with_the_reason_alone(
        self, written: VaultSecretStore, served_vault: ServedVault
    ) -> None:
        served_vault.fake.answer("/hmac/", 503, SEALED)

        with structlog.testing.capture_logs() as logs:
            await reason_of(written.fingerprint("org_a", make_key()))

        assert logs == [{"event": "vault_unavailable", "reason": "sealed", "log_level": "warning"}]


class TestPassingTroubles:
    @pytest.mark.parametrize(("status", "body"), [(400, UPGRADING), (412, {"errors": ["required index"]})])
    async def test_are_waited_out(
        self, written: VaultSecretStore, served_vault: ServedVault, ref: SecretRef, status: int, body: Any
    ) -> None:
        served_vault.fake.answer("/data/", status, body, times=2)

        assert await written.intent_at(ref, 1) is not None

    async def test_a_late_replica_is_asked_again(
        self, written: VaultSecretStore, served_vault: ServedVault, ref: SecretRef
    ) -> None:
        served_vault.fake.answer("/data/", 404, {"errors": []}, times=2)

        assert await written.intent_at(ref, 1) is not None

    async def test_a_late_list_of_versions_spares_none_from_a_purge(
        self, written: VaultSecretStore, served_vault: ServedVault, ref: SecretRef
    ) -> None:
        await write(written, ref, expected_version=1)
        late = {"data": {"current_version": 1, "versions": {"1": {}}}}
        served_vault.fake.answer("/metadata/", 200, late, times=1)

        await written.purge(ref)

        assert await written.intent_at(ref, 1) is None
        assert await written.intent_at(ref, 2) is None

    async def test_a_write_whose_answer_was_lost_is_found(
        self, written: VaultSecretStore, served_vault: ServedVault, ref: SecretRef
    ) -> None:
        intent_id = uuid4()
        await written.write(ref, make_key(), intent_id=intent_id, expected_version=1)
        mismatch = {"errors": ["check-and-set parameter did not match the current version"]}
        served_vault.fake.answer("/data/", 400, mismatch, times=1)

        assert await written.write(ref, make_key(), intent_id=intent_id, expected_version=1) == 2


class TestSilence:
    @every_call
    async def test_ends_every_call_by_the_deadline(
        self, prepared_fake: Prepared, served_vault: ServedVault, ref: SecretRef, call: Call
    ) -> None:
        async with prepared_fake.store(deadline_seconds=0.1) as store:
            served_vault.fake.release.clear()

            assert await reason_of(call(store, ref)) is VaultReason.TIMEOUT

            served_vault.fake.release.set()

    async def test_leaves_room_for_others_when_it_ends(
        self, prepared_fake: Prepared, served_vault: ServedVault
    ) -> None:
        async with prepared_fake.store(deadline_seconds=0.1) as store:
            served_vault.fake.release.clear()
            reasons = await asyncio.gather(*(reason_of(store.ping()) for _ in range(40)))
            served_vault.fake.release.set()

        async with prepared_fake.store() as store:
            await store.ping()
        assert set(reasons) == {VaultReason.TIMEOUT}
