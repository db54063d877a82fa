"""A pytest plugin: a run has every n-th case of a test with `@pytest.mark.sampled(stride=n)`, from another one each day.

With BYOK_TEST_CRASHES=all it has all of them. If a command names one case, it runs on every day.
"""

from collections import defaultdict

import pytest

from tests.support.fault_injection import sampled_cases


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    cases: dict[str, list[pytest.Item]] = defaultdict(list)
    for item in items:
        if item.get_closest_marker("sampled") is not None:
            cases[_name_of_test(item)].append(item)
    kept = {item for name, found in cases.items() for item in _sampled(name, found)}
    items[:] = [item for item in items if item in kept or _name_of_test(item) not in cases]


def _name_of_test(item: pytest.Item) -> str:
    """The same for all cases of a test."""
    return item.nodeid.partition("[")[0]


def _sampled(name: str, cases: list[pytest.Item]) -> list[pytest.Item]:
    marker = cases[0].get_closest_marker("sampled")
    assert marker is not None
    return list(sampled_cases(cases, stride=marker.kwargs["stride"], of=name))
