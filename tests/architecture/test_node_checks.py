"""Checks that need node: without it they are skipped and say so, unless the run requires it."""

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CHECKS = ("check_openapi", "check_page_types")


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A PATH without node and npm: only what the scripts call before they look for them, and a user who is not root."""
    for name in ("bash", "env", "dirname"):
        (program,) = [it for it in (Path("/usr/bin") / name, Path("/bin") / name) if it.exists()][:1]
        (tmp_path / name).symlink_to(program)
    (tmp_path / "id").write_text("#!/usr/bin/env bash\necho 1000\n", encoding="utf-8")
    (tmp_path / "id").chmod(0o755)
    return tmp_path


def run(script: str, path: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(path / "bash"), str(ROOT / "scripts" / script)],
        env={"PATH": str(path), **variables},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("script", CHECKS)
class TestWithoutNode:
    def test_a_check_is_skipped(self, bare: Path, script: str) -> None:
        done = run(script, bare)

        assert (done.returncode, done.stderr) == (0, "")
        assert "skipped, because npm is not installed" in done.stdout

    def test_a_check_that_the_run_requires_fails(self, bare: Path, script: str) -> None:
        done = run(script, bare, BYOK_TEST_REQUIRE="browser,node")

        assert (done.returncode, done.stdout) == (1, "")
        assert "scripts/install-servers" in done.stderr


class TestInstallServers:
    def test_names_node_and_npm_if_it_may_not_install_them(self, bare: Path) -> None:
        done = run("install-servers", bare)

        assert done.returncode == 0
        assert "nodejs npm. Run scripts/install-servers as root" in done.stdout

    def test_leaves_a_node_that_is_installed(self, bare: Path) -> None:
        for name in ("node", "npm"):
            (bare / name).symlink_to(bare / "id")

        done = run("install-servers", bare)

        assert "nodejs" not in done.stdout

    def test_is_what_ci_runs(self) -> None:
        job = (ROOT / ".ci/run").read_text(encoding="utf-8")

        assert job.index("scripts/install-servers") < job.index("make check")
        assert "browser,node" in job
        assert job.index("make check") < job.index("make test\n") < job.index("make test-exhaustive")
