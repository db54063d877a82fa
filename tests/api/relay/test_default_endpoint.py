"""The operator's default endpoint, however the operator spells it."""

from collections.abc import Callable

import pytest

from app.settings.groups.provider import ProviderSettings
from tests.support.relay.relay_service import RelayUser, WithSettings
from tests.support.relay.scripted_provider import ScriptedProvider


def port_of(provider: ScriptedProvider) -> str:
    return provider.base_url.rpartition(":")[2]


class TestSpelling:
    @pytest.mark.parametrize(
        "spelling", ["http://LOCALHOST:{}", "HTTP://LocalHost:{}/", "http://127.0.0.1:{}/v1"]
    )
    async def test_does_not_matter_to_the_relay(
        self, user: RelayUser, scripted: ScriptedProvider, with_settings: WithSettings, spelling: str
    ) -> None:
        configured = ProviderSettings(default_base_url=spelling.format(port_of(scripted)))

        async with with_settings(user, base_url=configured.default_base_url) as instance:
            response = await instance.send()

        assert response.status_code == 200, response.text

    async def test_of_an_older_key_keeps_working(
        self,
        make_relay_user: Callable[[], RelayUser],
        scripted: ScriptedProvider,
        with_settings: WithSettings,
    ) -> None:
        # Earlier releases stored the operator's own spelling with each key.
        spelled = f"http://LOCALHOST:{port_of(scripted)}"
        async with with_settings(make_relay_user(), base_url=spelled) as older:
            saved = await older.save_key()
        configured = ProviderSettings(default_base_url=spelled)

        async with with_settings(older, base_url=configured.default_base_url) as instance:
            response = await instance.send()
            validated = await instance.admin.post(f"{instance.admin.credentials}/{saved['id']}/validations")

        assert saved["messages_url"] == f"{spelled}/v1/messages"
        assert response.status_code == 200, response.text
        assert validated.json()["status"] == "valid", validated.text
