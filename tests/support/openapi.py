"""The OpenAPI document, generated once in a process, because that takes more than a second of CPU time."""

from functools import cache
from typing import Any

from app import main


@cache
def openapi_document() -> dict[str, Any]:
    """Return the document of the application. Tests only read it."""
    return main.openapi_document()
