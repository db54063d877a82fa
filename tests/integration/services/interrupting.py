"""Do something while something comes between, and see that it is mended."""

from collections import Counter

import pytest

from app.core.errors import ByokError
from app.credentials.deletion import DeletionReceipt
from app.credentials.records import CredentialRecord
from app.credentials.rotations import RotationRecord, RotationState
from app.credentials.service import CredentialService
from app.rotation.service import RotationService
from tests.integration.services.deeds import DEEDS, Answer, Deed, delete
from tests.integration.services.soundness import Bench
from tests.integration.services.vessels import Vessel
from tests.interruptions import Course, Crash

MOST_STEPS = 80
every_deed = pytest.mark.parametrize("name", DEEDS)
TRIED: Counter[str] = Counter()  # over which store, how often


async def interrupt(bench: Bench, deed: Deed, course: Course) -> None:
    """Do it under that course, sweep, look, let the retention pass, and look again."""
    answer: Answer = None
    try:
        answer = await deed(bench, bench.place.interrupted(course))
    except (Crash, ByokError):
        assert not course.got_through, "refused, though nothing happened"
    await bench.settle()
    await bench.assert_sound()
    await assert_still_true(bench, answer)
    await bench.let_retention_pass()
    await bench.assert_at_rest()


async def assert_still_true(bench: Bench, answer: Answer) -> None:
    """What the caller was told holds, whatever came after."""
    place = bench.place
    if isinstance(answer, RotationRecord) and answer.state is not RotationState.PENDING:
        found = await place.healthy[RotationService].read(place.organization, bench.credential_id, answer.id)
        assert found.state is answer.state
    if isinstance(answer, DeletionReceipt):
        assert await delete(bench, place.healthy) == answer
    elif isinstance(answer, RotationRecord | CredentialRecord):
        record = await place.healthy[CredentialService].read(place.organization, bench.credential_id)
        in_use = answer.key_version if isinstance(answer, RotationRecord) else answer.current.key_version
        is_in_use = isinstance(answer, CredentialRecord) or answer.state is RotationState.ACTIVATED
        assert not is_in_use or record.current.key_version == in_use


def count(capsys: pytest.CaptureFixture[str], name: str, vessel: Vessel, points: int, kind: str) -> None:
    """A line of the run's output: how often it was interrupted. The run's last lines have the sum."""
    TRIED[vessel.name] += points
    with capsys.disabled():
        print(f"\n  {name}, over {vessel.name}: {points} {kind}", end="")
