"""What `make test` samples is tested completely by as many consecutive days as the stride."""

from collections.abc import Sequence
from typing import Any

import pytest

from tests.support import fault_injection
from tests.support.fault_injection import crash_rounds, sampled_cases
from tests.support.sampled_items import pytest_collection_modifyitems

CASES = range(23)
STRIDE = 6


def sampled_on(
    day: int, monkeypatch: pytest.MonkeyPatch, *, of: str = "createCredential", cases: range = CASES
) -> list[int]:
    monkeypatch.setattr(fault_injection, "ALL_CRASHES", False)
    monkeypatch.setattr(fault_injection, "SEED", day)
    return list(sampled_cases(iter(cases), stride=STRIDE, of=of))


class TestSampledCases:
    @pytest.mark.parametrize("first", [0, 739_949])
    def test_cover_all_cases_in_as_many_days_as_the_stride(
        self, first: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        days = [sampled_on(day, monkeypatch) for day in range(first, first + STRIDE)]

        assert sorted(case for day in days for case in day) == list(CASES)

    def test_are_never_empty_and_repeat_with_the_seed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for day in range(100):
            sampled = sampled_on(day, monkeypatch)
            assert sampled
            assert sampled == sampled_on(day, monkeypatch)

    @pytest.mark.parametrize("count", [1, 3, 5, 6, 7])
    @pytest.mark.parametrize("of", ["createCredential", "getReadiness"])
    def test_are_never_empty_with_few_cases(
        self, count: int, of: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        cases = range(count)
        days = [sampled_on(day, monkeypatch, of=of, cases=cases) for day in range(739_949, 739_949 + STRIDE)]

        assert all(days)
        assert {case for day in days for case in day} == set(cases)

    def test_differ_between_names(self, monkeypatch: pytest.MonkeyPatch) -> None:
        starts = {sampled_on(1, monkeypatch, of=f"operation {number}")[0] for number in range(50)}

        assert starts == set(range(STRIDE))

    def test_are_all_cases_in_the_exhaustive_run(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(fault_injection, "ALL_CRASHES", True)

        assert list(sampled_cases(CASES, stride=STRIDE, of="createCredential")) == list(CASES)


class Case:
    """A case of a test, as pytest collects it."""

    def __init__(self, nodeid: str, stride: int | None = None) -> None:
        self.nodeid = nodeid
        self._stride = stride

    def get_closest_marker(self, name: str) -> pytest.Mark | None:
        assert name == "sampled"
        return None if self._stride is None else pytest.mark.sampled(stride=self._stride).mark


def collected_on(
    day: int, monkeypatch: pytest.MonkeyPatch, cases: Sequence[Case], *, is_exhaustive: bool = False
) -> list[str]:
    monkeypatch.setattr(fault_injection, "ALL_CRASHES", is_exhaustive)
    monkeypatch.setattr(fault_injection, "SEED", day)
    items: list[Any] = list(cases)
    pytest_collection_modifyitems(items)
    return [item.nodeid for item in items]


class TestSampledMarker:
    CASES = (
        Case("a.py::test_whole[1]"),
        *(Case(f"a.py::test_many[{number}]", 3) for number in range(7)),
        Case("a.py::test_whole[2]"),
        Case("a.py::test_few[one]", 3),
    )

    def test_keeps_every_third_case_and_all_others(self, monkeypatch: pytest.MonkeyPatch) -> None:
        days = [collected_on(day, monkeypatch, self.CASES) for day in range(739_949, 739_952)]

        for day in days:
            assert {"a.py::test_whole[1]", "a.py::test_whole[2]", "a.py::test_few[one]"} <= set(day)
            assert 2 <= sum("test_many" in nodeid for nodeid in day) <= 3
            assert day == [case.nodeid for case in self.CASES if case.nodeid in day]
        assert {nodeid for day in days for nodeid in day} == {case.nodeid for case in self.CASES}

    def test_keeps_all_cases_in_the_exhaustive_run(self, monkeypatch: pytest.MonkeyPatch) -> None:
        found = collected_on(1, monkeypatch, self.CASES, is_exhaustive=True)

        assert found == [case.nodeid for case in self.CASES]


class TestCrashRounds:
    def test_are_one_of_three_each_day(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("BYOK_TEST_CRASH_ROUNDS", raising=False)
        monkeypatch.setattr(fault_injection, "ALL_CRASHES", False)
        found = []
        for day in range(739_949, 739_952):
            monkeypatch.setattr(fault_injection, "SEED", day)
            found += crash_rounds("saves")

        assert sorted(found) == [1, 2, 3]

    def test_are_as_many_as_the_variable_says(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("BYOK_TEST_CRASH_ROUNDS", "5")

        assert crash_rounds("saves") == [1, 2, 3, 4, 5]

    def test_are_three_in_the_exhaustive_run(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("BYOK_TEST_CRASH_ROUNDS", raising=False)
        monkeypatch.setattr(fault_injection, "ALL_CRASHES", True)

        assert crash_rounds("saves") == [1, 2, 3]
