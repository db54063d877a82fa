"""Wire models of liveness and readiness."""

from typing import Annotated, Literal

from pydantic import Field

from app.api.schemas import ResponseModel


class Liveness(ResponseModel):
    """The process responds."""

    status: Literal["ok"] = "ok"


class Readiness(ResponseModel):
    """Whether each dependency responds."""

    status: Literal["ready", "not_ready"]
    dependencies: Annotated[
        dict[str, Literal["up", "down"]], Field(examples=[{"database": "up", "secret_store": "up"}])
    ]
    problems: Annotated[
        dict[str, str],
        Field(
            description="Error code of each dependency that is down, by name; `shutting_down` of `process` while the instance stops.",
            examples=[{}],
        ),
    ]
