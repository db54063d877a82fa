"""No setting's value, and no part of it, is in any message about the settings."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.settings.environment import SettingsRefused, load_settings
from app.settings.settings import Settings
from app.settings.variables import group_of

CANARY = "Zq7canary9Xk"
# Each form is wrong for some types and right for others.
FORMS = (
    "{}",
    "{}\n",
    " {} ",
    '"{}"',
    '["{}"]',
    '{{"{}": 1}}',
    '{{"{}": "{}"}}',
    '{{"token": "{}"}}',
    "https://{}.example.com",
    "https://user:{}@example.com/",
    "http://{}",
    "https://example.com/?{}",
    "https://[{}",
    "postgresql://u:p@{}:port/x",
    "postgresql://u:{}:x@y@db/byok",
    "80{}",
    "{}s",
    "/no/such/{}",
    "192.0.2.1:{}",
    "64:ff9b::{}/96",
    "{}" * 2000,
    "\udc80{}",
)


def variables(model: type = Settings, prefix: str = "BYOK_") -> Iterator[str]:
    for name in model.model_fields:  # type: ignore[attr-defined]  # a model of pydantic
        yield f"{prefix}{name.upper()}"
        if (group := group_of(model, name)) is not None:
            yield from variables(group, f"{prefix}{name.upper()}__")


def message() -> str:
    """What the settings are refused with; empty if they are accepted."""
    try:
        load_settings()
    except SettingsRefused as error:
        return str(error)
    return ""


VARIABLES = (*variables(), "BYOK_VAULT__ROLES__WRITER", "BYOK_VAULT__ROLES__WRITER__TOKEN")


@pytest.fixture(autouse=True)
def _empty_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


class TestLoadSettings:
    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=400, deadline=None)
    @given(
        variable=st.sampled_from(VARIABLES),
        form=st.sampled_from(FORMS),
        environment=st.sampled_from(["development", "production"]),
    )
    def test_never_quotes_a_value(self, variable: str, form: str, environment: str) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("BYOK_ENVIRONMENT", environment)
            patch.setenv(variable, form.replace("{}", CANARY).replace("{{", "{").replace("}}", "}"))
            text = message()
        assert CANARY not in text
        assert all(line.startswith("BYOK_") for line in text.splitlines())

    @pytest.mark.parametrize("content", [b"BYOK_PORT=80\xff", b"\xff\xfe\x00"])
    def test_reports_an_env_file_that_is_not_utf_8(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / ".env").write_bytes(content)

        with pytest.raises(SettingsRefused, match=r"^\.env: "):
            load_settings()
