"""Errors on the wire: RFC 9457 problem+json, with a stable code."""

from typing import Annotated
from uuid import UUID

from pydantic import Field

from app.schemas.base import ResponseModel


class FieldProblem(ResponseModel):
    """One field that is wrong. Never its value."""

    field: str
    code: str
    message: str


class Problem(ResponseModel):
    """What went wrong."""

    type: Annotated[str, Field(examples=["urn:byok:problem:not_found"])]
    title: str
    status: int
    detail: str
    code: Annotated[str, Field(description="Stable: branch on this.")]
    request_id: str
    errors: Annotated[
        list[FieldProblem] | None, Field(description="With 422: the fields that are wrong.")
    ] = None
    credential_id: Annotated[
        UUID | None, Field(description="With duplicate_key: the one that has the key.")
    ] = None
    blockers: Annotated[list[str] | None, Field(description="With not_ready: why work must not start.")] = (
        None
    )
