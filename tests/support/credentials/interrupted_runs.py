"""Run an operation under injected faults, and check the state after reconciliation."""

from collections import Counter

import pytest

from app.core.errors import ByokError
from app.credentials.deletion import DeletionReceipt
from app.credentials.records import CredentialRecord
from app.credentials.rotations import RotationRecord, RotationState
from app.credentials.service import CredentialService
from app.rotation.service import RotationService
from tests.support.credentials.invariants import CredentialUnderTest
from tests.support.credentials.operations import OPERATIONS, Operation, OperationResult, delete
from tests.support.credentials.store_variants import StoreVariant
from tests.support.fault_injection import Crash, FaultSchedule

MAX_STEPS = 80
every_operation = pytest.mark.parametrize("name", OPERATIONS)
INTERRUPTIONS: Counter[str] = Counter()  # number of injected faults by store


async def run_interrupted(
    under_test: CredentialUnderTest, operation: Operation, faults: FaultSchedule
) -> None:
    """Run the operation under the faults. Check the state after reconciliation and after the retention."""
    result: OperationResult = None
    try:
        result = await operation(under_test, under_test.harness.services_with_faults(faults))
    except (Crash, ByokError):
        assert not faults.never_fired, "failed without an injected fault"
    await under_test.reconcile_everything()
    await under_test.assert_consistent()
    await assert_response_still_holds(under_test, result)
    await under_test.expire_retention()
    await under_test.assert_no_work_left()


async def assert_response_still_holds(under_test: CredentialUnderTest, result: OperationResult) -> None:
    """Check that the result that the caller received is still true."""
    harness = under_test.harness
    if isinstance(result, RotationRecord) and result.state is not RotationState.PENDING:
        found = await harness.healthy_services[RotationService].read(
            harness.organization, under_test.credential_id, result.id
        )
        assert found.state is result.state
    if isinstance(result, DeletionReceipt):
        assert await delete(under_test, harness.healthy_services) == result
    elif isinstance(result, RotationRecord | CredentialRecord):
        record = await harness.healthy_services[CredentialService].read(
            harness.organization, under_test.credential_id
        )
        active_version = (
            result.key_version if isinstance(result, RotationRecord) else result.active_version.key_version
        )
        was_activated = isinstance(result, CredentialRecord) or result.state is RotationState.ACTIVATED
        assert not was_activated or record.active_version.key_version == active_version


def report_interruptions(
    capsys: pytest.CaptureFixture[str], name: str, store_variant: StoreVariant, count: int, kind: str
) -> None:
    """Print how often the operation was interrupted. The summary of the test run has the total."""
    INTERRUPTIONS[store_variant.name] += count
    with capsys.disabled():
        print(f"\n  {name}, {store_variant.name}: {count} {kind}", end="")
