"""The SDKs, installed once in a run."""

from collections.abc import Callable

import pytest

from tests.support.relay.sdks.installed import SDKS, Sdk, install


@pytest.fixture(scope="session")
def installed_sdk(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Sdk]:
    found: dict[str, Sdk] = {}

    def sdk_of(name: str) -> Sdk:
        if name not in found:
            found[name] = install(name, tmp_path_factory.mktemp(name.replace(".", "_")))
        return found[name]

    return sdk_of


@pytest.fixture(params=SDKS)
def sdk(request: pytest.FixtureRequest, installed_sdk: Callable[[str], Sdk]) -> Sdk:
    return installed_sdk(request.param)
