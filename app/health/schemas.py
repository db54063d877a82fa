"""Health on the wire."""

from typing import Annotated, Literal

from pydantic import Field

from app.api.schemas import ResponseModel


class Liveness(ResponseModel):
    """The process answers."""

    status: Literal["ok"] = "ok"


class Readiness(ResponseModel):
    """Whether each dependency answers right now."""

    status: Literal["ready", "not_ready"]
    dependencies: Annotated[
        dict[str, Literal["up", "down"]], Field(examples=[{"database": "up", "secret_store": "up"}])
    ]
    problems: Annotated[
        dict[str, str],
        Field(
            description="Of each dependency that is down the code of what is wrong, as problems have it.",
            examples=[{}],
        ),
    ]
