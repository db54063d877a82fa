"""Health on the wire."""

from typing import Literal

from app.schemas.base import ResponseModel


class Liveness(ResponseModel):
    """The process answers."""

    status: Literal["ok"] = "ok"


class Readiness(ResponseModel):
    """Whether each dependency answers right now."""

    status: Literal["ready", "not_ready"]
    dependencies: dict[str, Literal["up", "down"]]
