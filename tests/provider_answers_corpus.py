"""Checks corpus files of provider responses against the client and the decision table of the service.

    python -m tests.provider_answers_corpus FILE.jsonl [...]

A corpus file has one JSON object per line: `id`, `host` (anthropic | custom), `probe` (models | messages | empty),
`status`, `headers`, `body` (a JSON value, or an object with `text` and optionally `times` and `charset`), `expect`
(`status` and `reasons`), and optionally `also` (more accepted outcomes) and `debatable`. A server on loopback sends each
response to the real client. The script prints one JSON line for each disagreement, then a line with the counts. The
exit status is 1 if a disagreement is not debatable.
"""

import asyncio
import sys
from pathlib import Path

from tests.support.provider.corpus_runner import run

if __name__ == "__main__":
    if len(sys.argv) == 1:
        sys.exit(__doc__)
    sys.exit(asyncio.run(run(map(Path, sys.argv[1:]))))
