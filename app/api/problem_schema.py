"""Response models of errors: RFC 9457 problem+json with a stable code."""

from typing import Annotated
from uuid import UUID

from pydantic import ConfigDict, Field
from pydantic.json_schema import SkipJsonSchema

from app.api.schemas import ResponseModel, without_default


class FieldProblem(ResponseModel):
    """An invalid field of the request. Never contains its value."""

    field: Annotated[
        str, Field(description="The name of the field, with dots for nested fields.", examples=["label"])
    ]
    code: Annotated[
        str,
        Field(description="A stable code. Use it in programs, not the message.", examples=["required"]),
    ]
    message: Annotated[str, Field(examples=["This field is required."])]


class Committed(ResponseModel):
    """The number of NDJSON lines that were ingested. No line after them was ingested."""

    lines: Annotated[
        int,
        Field(
            description="The number of lines, from the first one. Resume with the line that has this index, counted from 0.",
            examples=[3000],
        ),
    ]
    accepted: Annotated[int, Field(examples=[2990])]
    duplicates: Annotated[int, Field(examples=[8])]
    rejected: Annotated[int, Field(description="Events that were rejected or conflict.", examples=[2])]


class Problem(ResponseModel):
    """An error. Optional fields are absent if they do not apply to its `code`."""

    model_config = ConfigDict(json_schema_serialization_defaults_required=False)

    type: Annotated[str, Field(examples=["urn:byok:problem:not_found"])]
    title: Annotated[str, Field(examples=["Not Found"])]
    status: Annotated[int, Field(examples=[404])]
    detail: Annotated[str, Field(examples=["The resource does not exist."])]
    code: Annotated[
        str,
        Field(description="A stable code. Use it in programs, not the text.", examples=["not_found"]),
    ]
    request_id: Annotated[str, Field(examples=["req_0199a2b4c6d87e01a2b3c4d5e6f70819"])]
    errors: Annotated[
        list[FieldProblem] | SkipJsonSchema[None],
        Field(description="With status 422: the invalid fields.", json_schema_extra=without_default),
    ] = None
    errors_truncated: Annotated[
        bool | SkipJsonSchema[None],
        Field(
            description="With status 422: true if there are more errors than `errors` contains.",
            json_schema_extra=without_default,
        ),
    ] = None
    credential_id: Annotated[
        UUID | SkipJsonSchema[None],
        Field(
            description="With `duplicate_key`: the credential that has the key.",
            json_schema_extra=without_default,
        ),
    ] = None
    rotation_id: Annotated[
        UUID | SkipJsonSchema[None],
        Field(
            description="With `rotation_in_progress`: the pending rotation. Absent if it ended at this moment.",
            json_schema_extra=without_default,
        ),
    ] = None
    limit_id: Annotated[
        UUID | SkipJsonSchema[None],
        Field(
            description="With `spend_limit_exceeded`: the id of the limit.", json_schema_extra=without_default
        ),
    ] = None
    limit_name: Annotated[
        str | SkipJsonSchema[None],
        Field(
            description="With `spend_limit_exceeded`: the name of the limit.",
            json_schema_extra=without_default,
        ),
    ] = None
    reason: Annotated[
        str | SkipJsonSchema[None],
        Field(
            description="With `spend_limit_exceeded`: `limit_reached`, or `price_unknown` if the model has no known price.",
            json_schema_extra=without_default,
        ),
    ] = None
    blockers: Annotated[
        list[str] | None, Field(description="With `not_ready`: the reasons why work must not start.")
    ] = None
    committed: Annotated[
        Committed | SkipJsonSchema[None],
        Field(
            description="With usage events as NDJSON: the lines that were ingested before the error.",
            json_schema_extra=without_default,
        ),
    ] = None
