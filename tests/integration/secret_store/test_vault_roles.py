"""The login that each role gets from the settings."""

from pathlib import Path
from typing import Any

import pytest

from app.secret_store.vault.roles import VaultRole, logins_from_settings
from app.secret_store.vault.session import VaultLogin
from app.settings.environment import SettingsRefused, load_settings
from app.settings.groups.storage import VaultSettings


def logins(**settings: Any) -> dict[VaultRole, VaultLogin]:
    return logins_from_settings(
        VaultSettings.model_validate({"address": "https://vault.example.com"} | settings)
    )


class TestLogins:
    def test_are_the_same_for_all_roles_by_default(self) -> None:
        found = logins(token="t", namespace="team-a")

        assert set(found) == set(VaultRole)
        assert set(found.values()) == {
            VaultLogin(
                method="token", token="t", namespace="team-a", jwt_file=found[VaultRole.WRITER].jwt_file
            )
        }

    def test_of_one_role_inherit_the_general_settings(self) -> None:
        found = logins(
            auth_method="approle",
            role_id="all",
            secret_id="one",
            roles={"prober": {"role_id": "prober", "secret_id": "two"}},
        )

        assert (found[VaultRole.PROBER].role_id, found[VaultRole.PROBER].secret_id) == ("prober", "two")
        assert found[VaultRole.WRITER].role_id == "all"

    def test_may_differ_in_method(self, tmp_path: Path) -> None:
        found = logins(
            auth_method="kubernetes",
            role="byok",
            roles={"broker": {"auth_method": "jwt", "role": "broker", "jwt_file": str(tmp_path)}},
        )

        assert found[VaultRole.BROKER].method == "jwt"
        assert str(found[VaultRole.WRITER].jwt_file).endswith("serviceaccount/token")

    def test_are_read_from_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("BYOK_VAULT__TOKEN", "general")
        monkeypatch.setenv("BYOK_VAULT__ROLES__WRITER__TOKEN", "writer's")

        found = logins_from_settings(load_settings(_env_file=None).vault)

        assert found[VaultRole.WRITER].token == "writer's"
        assert found[VaultRole.BROKER].token == "general"

    def test_with_a_line_break_in_a_token_are_refused_with_the_reason(self) -> None:
        with pytest.raises(SettingsRefused) as refusal:
            logins(token="t", roles={"writer": {"token": "s.canary\n"}})

        assert str(refusal.value) == (
            "BYOK_VAULT__ROLES__WRITER__TOKEN: must not contain white space, line breaks and characters beyond ASCII;"
            " remove them"
        )

    @pytest.mark.parametrize(
        ("settings", "variable"),
        [
            ({}, "BYOK_VAULT__TOKEN"),
            ({"token": ""}, "BYOK_VAULT__TOKEN"),
            ({"auth_method": "approle"}, "BYOK_VAULT__ROLE_ID"),
            ({"auth_method": "approle", "role_id": "", "secret_id": "x"}, "BYOK_VAULT__ROLE_ID"),
            ({"auth_method": "approle", "role_id": "x"}, "BYOK_VAULT__SECRET_ID"),
            ({"auth_method": "kubernetes"}, "BYOK_VAULT__ROLE"),
            ({"auth_method": "jwt", "role": "x"}, "BYOK_VAULT__JWT_FILE"),
            ({"token": "t", "roles": {"scribe": {}}}, "BYOK_VAULT__ROLES"),
            (
                {"token": "t", "roles": {"writer": {"auth_method": "approle"}}},
                "BYOK_VAULT__ROLES__WRITER__ROLE_ID",
            ),
            ({"token": "t", "roles": {"writer": {"tokenx": "s.canary"}}}, "BYOK_VAULT__ROLES__WRITER"),
            ({"token": "t", "roles": {"writer": {"s.canary": "x"}}}, "BYOK_VAULT__ROLES__WRITER"),
            (
                {"token": "t", "roles": {"writer": {"auth_method": "password"}}},
                "BYOK_VAULT__ROLES__WRITER__AUTH_METHOD",
            ),
        ],
    )
    def test_with_missing_settings_are_refused_naming_the_variable(
        self, settings: dict[str, Any], variable: str
    ) -> None:
        with pytest.raises(SettingsRefused) as refusal:
            logins(**settings)

        assert str(refusal.value).startswith(f"{variable}: ")
        assert "canary" not in str(refusal.value)
