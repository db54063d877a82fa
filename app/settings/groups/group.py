"""What all groups of settings share."""

from datetime import timedelta
from typing import Annotated

from pydantic import BaseModel, ConfigDict, StringConstraints

# An upper bound for durations. Larger values could overflow when they are added to a date.
A_YEAR = timedelta(days=366)

Text = Annotated[str, StringConstraints(min_length=1)]


class Group(BaseModel):
    """A group of settings."""

    model_config = ConfigDict(
        extra="ignore",
        frozen=True,
        arbitrary_types_allowed=True,
        hide_input_in_errors=True,
        defer_build=True,  # only the settings as a whole are built, which halves the time
    )
