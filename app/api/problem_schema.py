"""Errors on the wire: RFC 9457 problem+json, with a stable code."""

from typing import Annotated
from uuid import UUID

from pydantic import ConfigDict, Field
from pydantic.json_schema import SkipJsonSchema

from app.api.schemas import ResponseModel, without_default


class FieldProblem(ResponseModel):
    """One field that is wrong. Never its value."""

    field: Annotated[str, Field(description="Its name, with dots for what lies deeper.", examples=["label"])]
    code: Annotated[str, Field(description="Stable: branch on this.", examples=["required"])]
    message: Annotated[str, Field(examples=["This field is required."])]


class Committed(ResponseModel):
    """How far an NDJSON body was taken: so many lines from the first one on, and nothing after them."""

    lines: Annotated[int, Field(description="Send again from this line on, counted from 0.", examples=[3000])]
    accepted: Annotated[int, Field(examples=[2990])]
    duplicates: Annotated[int, Field(examples=[8])]
    rejected: Annotated[int, Field(description="Rejected or in conflict.", examples=[2])]


class Problem(ResponseModel):
    """What went wrong. `errors` and `credential_id` are absent where they say nothing."""

    model_config = ConfigDict(json_schema_serialization_defaults_required=False)

    type: Annotated[str, Field(examples=["urn:byok:problem:not_found"])]
    title: Annotated[str, Field(examples=["Not Found"])]
    status: Annotated[int, Field(examples=[404])]
    detail: Annotated[str, Field(examples=["There is no such resource."])]
    code: Annotated[str, Field(description="Stable: branch on this.", examples=["not_found"])]
    request_id: Annotated[str, Field(examples=["req_0199a2b4c6d87e01a2b3c4d5e6f70819"])]
    errors: Annotated[
        list[FieldProblem] | SkipJsonSchema[None],
        Field(description="With 422: the fields that are wrong.", json_schema_extra=without_default),
    ] = None
    credential_id: Annotated[
        UUID | SkipJsonSchema[None],
        Field(description="With duplicate_key: the one that has the key.", json_schema_extra=without_default),
    ] = None
    limit_id: Annotated[
        UUID | SkipJsonSchema[None],
        Field(description="With spend_limit_exceeded: the limit.", json_schema_extra=without_default),
    ] = None
    limit_name: Annotated[
        str | SkipJsonSchema[None],
        Field(description="With spend_limit_exceeded: its name.", json_schema_extra=without_default),
    ] = None
    reason: Annotated[
        str | SkipJsonSchema[None],
        Field(
            description="With spend_limit_exceeded: `limit_reached`, or `price_unknown` where the model has no known price.",
            json_schema_extra=without_default,
        ),
    ] = None
    blockers: Annotated[list[str] | None, Field(description="With not_ready: why work must not start.")] = (
        None
    )
    committed: Annotated[
        Committed | SkipJsonSchema[None],
        Field(
            description="With usage events as NDJSON: what was taken before.",
            json_schema_extra=without_default,
        ),
    ] = None
