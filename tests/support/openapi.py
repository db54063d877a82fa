"""The OpenAPI document, as `make openapi` writes it. To generate it takes more than a second in each process of a run."""

import json
from functools import cache
from pathlib import Path
from typing import Any

FILE = Path(__file__).parents[2] / "openapi" / "openapi.json"


@cache
def openapi_document() -> dict[str, Any]:
    """Return the document. Tests only read it; one of them compares it with that of the application."""
    found: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
    return found
