"""`make test`, `make test-fast`, `make test-exhaustive` and `make coverage`: run pytest on every core, then print the next step.

Each worker process has its own PostgreSQL server and database. The tests of a file stay in one worker. With
arguments, pytest runs with these arguments in one process. Coverage is measured only where it is asked for, because its
tracer doubles the CPU time. Temporary files are in memory if there is enough of it; TMPDIR names another place.

BYOK_TEST_WORKERS sets the number of worker processes.
"""

import os
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from tests.support.memory_directory import temporary_directory
from tests.support.shared_directory import shared_directory

ROOT = Path(__file__).parents[1]

# The files that take longest come first, so that no worker has one left at the end.
SLOW = ["tests/deployment", "tests/e2e", "tests/integration"]
FAST = ["tests/api", "tests/unit"]
# What the other runs sample, shorten or skip: all of it. The image, which takes longest, comes first.
EXHAUSTIVE = [
    "tests/deployment/test_image.py",
    "tests/e2e/test_schemathesis.py",
    "tests/e2e/relay/test_soak.py",
    "tests/e2e/relay/test_sdks_through_relay.py",
    "tests/e2e/relay/test_cut_streams_in_sdks.py",
    "tests/e2e/relay/test_how_to.py",
    "tests/e2e/test_api_through_pooler.py",
    "tests/e2e/test_crashes.py",
    "tests/e2e/test_ingestion_crashes.py",
    "tests/e2e/test_periodic_validation.py",
    "tests/e2e/test_identity_providers.py",
    "tests/e2e/test_reverse_proxies.py",
    "tests/browser/test_accessibility.py",
    "tests/browser/test_accessibility_states.py",
    "tests/integration/credentials/test_write_protocol.py",
    "tests/integration/credentials/test_write_protocol_rotation.py",
    "tests/integration/credentials/test_write_protocol_vault.py",
    "tests/integration/secret_maintenance/test_move_to_vault.py",
    "tests/integration/secret_maintenance/test_rewrap.py",
    "tests/integration/secret_maintenance/test_rotate_kek.py",
    "tests/integration/secret_maintenance/test_several_cells.py",
    "tests/integration/database/test_migrations.py",
    "tests/integration/rotation/test_destroy_previous.py",
    "tests/integration/validation/test_lasting_results.py",
    "tests/integration/webhooks/test_write_protocol.py",
    "tests/integration/billing/test_statement_oracle.py",
    "tests/browser/test_leak_detectors.py",
    "tests/browser/test_states.py",
    "tests/browser/test_usage.py",
    "tests/api/api/test_worst_bodies.py",
    "tests/api/api/test_worst_requests.py",
    "tests/api/relay/test_worst_bodies.py",
    "tests/api/idempotency/test_idempotency_after_failures.py",
    "tests/api/rotation/test_rotation_after_failures.py",
    "tests/api/usage/test_filters.py",
    "tests/api/usage_reports/test_usage_report.py",
]
# Its import takes seconds in each process, and only tests/e2e needs it.
WITHOUT_SCHEMATHESIS = ["-p", "no:schemathesis"]
COVERAGE = ["--cov", "--cov-report=term:skip-covered"]
# The tests of SLOW wait for other processes for much of the time: with as many more workers, two cores are always busy. Those of
# FAST need one more.
WAITING_WORKERS = 4


def main() -> int:
    """Run pytest and return its exit code."""
    # Compiled modules halve the start-up time of each process.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    # All processes test the same part of what is sampled, even if a day ends while they start.
    os.environ.setdefault("BYOK_TEST_SEED", str(datetime.now(UTC).toordinal()))
    match sys.argv[1:]:
        case []:
            run = [*parallel(WAITING_WORKERS), *all_tests()]
        case ["--fast", *options]:
            run = [*parallel(1), *WITHOUT_SCHEMATHESIS, *FAST, *options]
        case ["--coverage"]:
            run = [*parallel(WAITING_WORKERS), *all_tests(), *COVERAGE]
        case ["--exhaustive"]:
            run = [*parallel(WAITING_WORKERS), *EXHAUSTIVE]
            os.environ["BYOK_TEST_CRASHES"] = "all"
        case given:
            run = given
    with temporary_directory() as descriptors, shared_directory():
        code = run_pytest(run, descriptors)
    everything = "BYOK_TEST_CRASHES=all " if os.environ.get("BYOK_TEST_CRASHES") == "all" else ""
    print("Next: make check" if code == 0 else f"Next: {everything}make test PYTEST_ARGS='--last-failed -x'")
    return code


def run_pytest(arguments: list[str], descriptors: Sequence[int]) -> int:
    """Run pytest, which inherits these descriptors. Returns its exit status."""
    command = [sys.executable, "-m", "pytest", *arguments]
    return subprocess.run(command, cwd=ROOT, check=False, pass_fds=descriptors).returncode


def all_tests() -> list[str]:
    """The directories of tests, in the order in which they start."""
    found = {f"tests/{file.relative_to(ROOT).parts[1]}" for file in ROOT.glob("tests/*/**/test_*.py")}
    return [*SLOW, *sorted(found.difference(SLOW, FAST)), *FAST]


def parallel(waiting: int = 0) -> list[str]:
    """One worker per core, and as many more as are waiting; whole files, in the given order."""
    workers = os.environ.get("BYOK_TEST_WORKERS") or str((os.cpu_count() or 1) + waiting)
    return ["--numprocesses", workers, "--dist", "loadfile", "--no-loadscope-reorder"]


if __name__ == "__main__":
    sys.exit(main())
