"""The wire types of dimension values."""

from typing import Annotated

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from app.api.text import require_plain
from app.core.visible_text import normalize
from app.usage_events.events import MAX_DIMENSION_LENGTH


def normalize_dimension(text: str) -> str:
    """Return the spelling in which events store a dimension value."""
    normalized = normalize(text)
    if len(normalized) > MAX_DIMENSION_LENGTH:
        raise PydanticCustomError("string_too_long", "The string is too long.")
    return normalized


Dimension = Annotated[
    str,
    Field(min_length=1, max_length=MAX_DIMENSION_LENGTH, examples=["assistant"]),
    AfterValidator(normalize_dimension),
    AfterValidator(require_plain),
]
# Not normalized: another spelling of a model id has no price and is another model.
ModelId = Annotated[
    str,
    Field(min_length=1, max_length=MAX_DIMENSION_LENGTH, examples=["claude-haiku-5-5"]),
    AfterValidator(require_plain),
]
