"""The SDKs, installed once in a run."""

import os
from collections.abc import Callable

import pytest

from tests.support.relay.sdks.installed import SDKS, Sdk, install


@pytest.fixture(scope="session")
def installed_sdk(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Sdk]:
    # All workers of a run share the parent of their directories.
    own = tmp_path_factory.getbasetemp()
    shared = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own
    found: dict[str, Sdk] = {}

    def sdk_of(name: str) -> Sdk:
        if name not in found:
            found[name] = install(name, shared / f"sdk-{name}")
        return found[name]

    return sdk_of


@pytest.fixture(scope="module", params=SDKS)
def sdk(request: pytest.FixtureRequest, installed_sdk: Callable[[str], Sdk]) -> Sdk:
    return installed_sdk(request.param)
