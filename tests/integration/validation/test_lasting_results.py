"""Results that last: what each response does to a key that was valid, and when the key is probed again."""

from collections.abc import AsyncIterator, Callable
from datetime import timedelta

import httpx
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.core.services import Services
from app.credentials.validation_results import Reason, ValidationStatus
from app.database.engine import Database
from app.egress.http_client import http_client
from tests.support.credentials.scheduled_key import DAY, ScheduledKey
from tests.support.database.rows import change
from tests.support.fault_injection import sampled_cases
from tests.support.provider.corpus_server import CorpusProber, corpus_prober
from tests.support.provider.provider_answers import Case, cases, decision_of

MINUTE = timedelta(minutes=1)
VALID, INVALID, INDETERMINATE = "valid", "invalid", "indeterminate"
DOUBTFUL, OUTAGE, EDGE = "403-envelope", "502-page", "edge-akamai-page"

RETRY_LATER: Case = {
    **next(case for case in cases() if case["id"] == "504"),
    "id": "retry-later",
    "headers": {"content-type": "application/json", "retry-after": "1800"},
}
RETRY_TOMORROW = RETRY_LATER | {"id": "retry-tomorrow", "headers": {"retry-after": "86400"}}
ALL_CASES = [*cases(), RETRY_LATER, RETRY_TOMORROW]

MakeKey = Callable[..., ScheduledKey]


@pytest.fixture(scope="module")
async def http() -> AsyncIterator[httpx.AsyncClient]:
    async with http_client() as http:
        yield http


@pytest.fixture
async def prober(http: httpx.AsyncClient) -> AsyncIterator[CorpusProber]:
    async with corpus_prober(http, ALL_CASES) as prober:
        yield prober


@pytest.fixture
async def make_key(
    services: Services, own_database: Database, own_superuser: AsyncEngine, prober: CorpusProber
) -> AsyncIterator[MakeKey]:
    def make(*, every: timedelta | None = DAY) -> ScheduledKey:
        return ScheduledKey(services, own_database, own_superuser, prober, every=every)

    yield make
    await change(own_superuser, "DELETE FROM job_queue")


@pytest.fixture
async def key(make_key: MakeKey) -> ScheduledKey:
    """A key that was valid when it was saved."""
    key = make_key()
    await key.save()
    assert await key.status() == (VALID, VALID)
    return key


def is_about(waited: timedelta, expected: timedelta) -> bool:
    return expected * 0.9 <= waited <= expected * 1.1


class TestEveryResponse:
    async def test_does_to_a_valid_key_what_it_proves(self, key: ScheduledKey) -> None:
        """No edge and no outage makes a good key invalid, however often it is validated."""
        for case in sampled_cases(cases(), stride=3, of="valid keys"):
            decision = decision_of(case, previously_valid=True)
            for number in (1, 2):
                await key.run_next(case["id"])

                lasts = decision.status is not ValidationStatus.INDETERMINATE
                lasts = lasts and (number > 1 or not decision.needs_second_probe)
                expected = (decision.status if lasts else VALID, decision.status)
                assert await key.status() == expected, (case["id"], number)
            await key.run_next("models")
            assert await key.status() == (VALID, VALID), case["id"]

    async def test_makes_a_new_key_valid_only_with_proof(self, make_key: MakeKey) -> None:
        """A key that no provider knows gets only responses that do not prove it."""
        for case in sampled_cases(cases(), stride=3, of="new keys"):
            key = make_key()

            await key.save(case["id"])

            assert (await key.status())[0] == case["expect"]["status"], case["id"]


class TestIndeterminateResults:
    @pytest.mark.parametrize("case_id", [OUTAGE, EDGE, "429-envelope-custom", "message-cut-off"])
    async def test_are_retried_after_1_2_5_15_minutes_then_hourly(
        self, key: ScheduledKey, case_id: str
    ) -> None:
        await key.run_next(case_id)

        for minutes in (1, 2, 5, 15, 60, 60, 60):
            waited = await key.run_next(case_id)
            assert is_about(waited, minutes * MINUTE), (minutes, waited)
        assert await key.status() == (VALID, INDETERMINATE)

    async def test_definite_result_ends_the_retries(self, key: ScheduledKey) -> None:
        for _ in range(3):
            await key.run_next(OUTAGE)

        await key.run_next("models")

        assert is_about(await key.run_next("models"), DAY)

    async def test_are_retried_without_periodic_validation(self, make_key: MakeKey) -> None:
        key = make_key(every=None)
        await key.save(OUTAGE)

        assert is_about(await key.run_next("models"), MINUTE)
        assert await key.status() == (VALID, VALID)
        assert await key.next_due_at() is None

    async def test_are_not_retried_before_retry_after(self, key: ScheduledKey) -> None:
        await key.run_next("retry-later")

        waited = await key.run_next("models")

        assert 30 * MINUTE <= waited <= 33 * MINUTE

    async def test_retry_after_is_bounded(self, key: ScheduledKey) -> None:
        await key.run_next("retry-tomorrow")

        assert 60 * MINUTE <= await key.run_next("models") <= 66 * MINUTE

    async def test_do_not_change_an_invalid_key(self, key: ScheduledKey) -> None:
        await key.run_next("401-envelope")

        await key.run_next(EDGE)

        assert await key.status() == (INVALID, INDETERMINATE)


class TestInvalidResultOfAValidKey:
    @pytest.mark.parametrize(
        "case_id", ["401-envelope", "401-text", "402-empty", "billing-words-on-anthropic"]
    )
    async def test_counts_at_once_if_the_provider_rejects_the_key_or_the_account(
        self, key: ScheduledKey, case_id: str
    ) -> None:
        await key.run_next(case_id)

        assert await key.status() == (INVALID, INVALID)
        assert is_about(await key.run_next("models"), DAY)

    async def test_is_shown_as_the_latest_and_probed_again_within_minutes(self, key: ScheduledKey) -> None:
        await key.run_next(DOUBTFUL)

        version = await key.version()
        assert (version.result.status, version.result.reason) == (VALID, Reason.OK)
        assert (version.latest.status, version.latest.reason) == (INVALID, Reason.INSUFFICIENT_PERMISSION)
        assert MINUTE <= await key.run_next(DOUBTFUL) <= 5 * MINUTE
        version = await key.version()
        assert (version.result.status, version.result.reason) == (INVALID, Reason.INSUFFICIENT_PERMISSION)

    async def test_is_forgotten_if_the_second_probe_accepts_the_key(self, key: ScheduledKey) -> None:
        await key.run_next(DOUBTFUL)

        await key.run_next("models")

        assert await key.status() == (VALID, VALID)
        await key.run_next(DOUBTFUL)
        assert await key.status() == (VALID, INVALID)

    async def test_is_forgotten_if_the_second_probe_is_indeterminate(self, key: ScheduledKey) -> None:
        for case_id in (DOUBTFUL, OUTAGE, DOUBTFUL):
            await key.run_next(case_id)

        assert await key.status() == (VALID, INVALID)

    async def test_with_another_reason_needs_a_second_probe_too(self, key: ScheduledKey) -> None:
        for case_id in (DOUBTFUL, "404-fastapi"):
            await key.run_next(case_id)

        assert await key.status() == (VALID, INVALID)
        assert MINUTE <= await key.run_next("404-fastapi") <= 5 * MINUTE
        assert await key.status() == (INVALID, INVALID)

    async def test_on_request_within_a_minute_is_not_the_second_probe(self, key: ScheduledKey) -> None:
        await key.validate(DOUBTFUL)

        await key.validate(DOUBTFUL, after=timedelta(seconds=50))
        assert await key.status() == (VALID, INVALID)

        await key.validate(DOUBTFUL, after=timedelta(seconds=10))
        assert await key.status() == (INVALID, INVALID)

    async def test_gets_its_second_probe_without_periodic_validation(self, make_key: MakeKey) -> None:
        key = make_key(every=None)
        await key.save()

        await key.validate(DOUBTFUL)

        assert MINUTE <= await key.run_next(DOUBTFUL) <= 5 * MINUTE
        assert await key.status() == (INVALID, INVALID)


class TestInvalidResultOfANewKey:
    async def test_counts_at_once(self, make_key: MakeKey) -> None:
        key = make_key()

        await key.save(DOUBTFUL)

        assert await key.status() == (INVALID, INVALID)
