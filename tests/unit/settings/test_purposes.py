"""A command is refused only for the settings that it needs."""

from pathlib import Path

import pytest

from app.composition.database_access import database_access, owner_variable
from app.settings.checks import Purpose
from app.settings.environment import SettingsRefused, load_settings
from app.settings.settings import Settings

OWNER = "postgresql://byok_owner:secret@db.internal/byok"


@pytest.fixture(autouse=True)
def empty_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


def load(monkeypatch: pytest.MonkeyPatch, purpose: Purpose, **variables: str) -> Settings:
    for name, value in variables.items():
        monkeypatch.setenv(f"BYOK_{name}", value)
    return load_settings(purpose)


class TestMigrate:
    def test_needs_only_the_owners_login_in_production(self, monkeypatch: pytest.MonkeyPatch) -> None:
        settings = load(
            monkeypatch,
            Purpose.MIGRATE,
            ENVIRONMENT="production",
            DATABASE__MIGRATION_URL=OWNER,
            VAULT__ADDRESS="https://vault.example.com:8200",
            VAULT__CA_FILE="/a/volume/that/it/does/not/have.pem",
        )

        with database_access(settings) as access:
            assert access.owner.username == "byok_owner"
        assert owner_variable(settings) == "DATABASE__MIGRATION_URL"

    def test_uses_no_pooler(self, monkeypatch: pytest.MonkeyPatch) -> None:
        pooled = f"{OWNER}?pgbouncer=true"

        with pytest.raises(
            SettingsRefused, match=r"^BYOK_DATABASE__MIGRATION_URL: must lead to the server itself"
        ):
            load(monkeypatch, Purpose.MIGRATE, DATABASE__MIGRATION_URL=pooled)
        monkeypatch.delenv("BYOK_DATABASE__MIGRATION_URL")
        with pytest.raises(SettingsRefused, match=r"^BYOK_DATABASE__DIRECT_URL: required"):
            load(monkeypatch, Purpose.MIGRATE, DATABASE__URL=pooled)
        settings = load(monkeypatch, Purpose.MIGRATE, DATABASE__DIRECT_URL=OWNER)
        assert owner_variable(settings) == "DATABASE__DIRECT_URL"

    def test_never_uses_the_embedded_database_in_production(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(SettingsRefused, match=r"^BYOK_DATABASE__MIGRATION_URL: production requires"):
            load(monkeypatch, Purpose.MIGRATE, ENVIRONMENT="production")


class TestSetUpVault:
    def test_needs_only_vault_in_production(self, monkeypatch: pytest.MonkeyPatch) -> None:
        settings = load(
            monkeypatch,
            Purpose.SET_UP_VAULT,
            ENVIRONMENT="production",
            VAULT__ADDRESS="https://vault.example.com:8200",
        )

        assert settings.vault.address == "https://vault.example.com:8200"

    def test_refuses_plain_http_and_a_missing_certificate(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(SettingsRefused) as refused:
            load(
                monkeypatch,
                Purpose.SET_UP_VAULT,
                ENVIRONMENT="production",
                VAULT__ADDRESS="http://vault.example.com:8200",
                VAULT__CA_FILE="missing.pem",
            )

        assert str(refused.value).splitlines() == [
            "BYOK_VAULT__ADDRESS: must be https",
            "BYOK_VAULT__CA_FILE: must be a readable file of PEM certificates",
        ]


class TestRun:
    def test_needs_the_services_login_too(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(SettingsRefused, match=r"^BYOK_DATABASE__URL: required if"):
            load(monkeypatch, Purpose.RUN, DATABASE__MIGRATION_URL=OWNER)
