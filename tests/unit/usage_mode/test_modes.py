"""The usage mode of an organization that never switched."""

from app.usage_mode.modes import INITIAL_MODE, UsageMode


class TestInitialMode:
    def test_is_managed(self) -> None:
        assert (INITIAL_MODE.mode, INITIAL_MODE.effective_from) == (UsageMode.MANAGED, None)
