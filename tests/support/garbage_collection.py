"""A pytest plugin: collects no garbage while tests are collected, and then ignores what the collection has made.

Modules and thousands of tests are objects that live until the run ends. Looking through them again and again takes a third
of the collection's time.
"""

import gc

import pytest

# Like the service: see app/server.py.
_COLLECT_AFTER = 10_000

gc.disable()


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop() -> None:
    gc.freeze()
    gc.enable()
    gc.set_threshold(_COLLECT_AFTER)
