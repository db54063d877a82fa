"""`make test-exhaustive` runs completely what `make test` samples."""

import re
from pathlib import Path

from tests.run import EXHAUSTIVE
from tests.support.documentation import ROOT

# What a test file names that samples its cases, or that runs more with BYOK_TEST_CRASHES=all.
SAMPLES = re.compile(
    r"\bsampled_steps\(|\bsampled_cases\(|\bsampled\(|\bcrash_rounds\(|\bALL_CRASHES\b"
    r"|\bpage\.accessibility import inspect\b|\bPYTHON_VERSIONS\b|\bsdks\.installed import\b"
)
# They test the sampling.
OF_SAMPLING = {"tests/unit/support/test_sampling.py", "tests/architecture/test_sampled_tests.py"}


def sampling() -> set[str]:
    """The test files that sample."""
    return {
        str(path.relative_to(ROOT))
        for path in Path(ROOT / "tests").rglob("test_*.py")
        if SAMPLES.search(path.read_text(encoding="utf-8"))
    } - OF_SAMPLING


def test_what_is_sampled_is_what_the_exhaustive_run_completes() -> None:
    assert sampling() == set(EXHAUSTIVE)
