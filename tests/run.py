"""`make test`: the whole suite with branch coverage, in one process per core, and a word on what to do next."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def main() -> int:
    """Returns pytest's exit code; what was asked for by hand runs without the coverage gate."""
    arguments = sys.argv[1:]
    coverage = [] if arguments else ["--cov", "--cov-report=term:skip-covered"]
    command = [sys.executable, "-m", "pytest", *coverage, *arguments]
    code = subprocess.run(command, cwd=ROOT, env=os.environ, check=False).returncode
    print("Next: make check" if code == 0 else "Next: make test PYTEST_ARGS='--last-failed -x'")
    return code


if __name__ == "__main__":
    sys.exit(main())
