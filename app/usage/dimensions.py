"""Dimensions that spend is told apart by, on the wire."""

from typing import Annotated

from pydantic import AfterValidator, Field

from app.api.text import is_plain
from app.usage.events import LONGEST_DIMENSION

Dimension = Annotated[
    str, Field(min_length=1, max_length=LONGEST_DIMENSION, examples=["assistant"]), AfterValidator(is_plain)
]
