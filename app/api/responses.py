"""Responses: a response model serialized directly to bytes, and idempotent creation with an Idempotency-Key."""

from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any, TypeVar
from uuid import UUID

from fastapi import Request, Response

from app.api.problems import problem_response
from app.api.schemas import ResponseModel
from app.auth.principal import Caller
from app.core.clock import new_id
from app.core.errors import ByokError, Conflict, Unavailable
from app.core.services import Services
from app.idempotency.repository import StoredResponse
from app.idempotency.service import IdempotencyClaim, IdempotencyService, IdempotentRequest

_STORED_HEADERS = ("content-type", "etag", "location", "preference-applied")

Created = TypeVar("Created")


def respond(model: ResponseModel, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A JSON response. The model is built from masked records, so it is not validated again."""
    return Response(
        model.to_json(),
        status_code=status,
        headers=None if headers is None else dict(headers),
        media_type="application/json",
    )


def response_headers(*names: str, status: int = 200) -> dict[int | str, Any]:
    """Document the headers of a successful response, for a route's `responses`. `app.api.openapi` describes them."""
    return {status: {"headers": {name: {"$ref": f"#/components/headers/{name}"} for name in names}}}


async def once(
    request: Request,
    caller: Caller,
    services: Services,
    key: str | None,
    *,
    create: Callable[[UUID], Awaitable[Created]],
    to_response: Callable[[Created], Response],
    resume: Callable[[UUID], Awaitable[Created | None]] | None = None,
    renews_id: bool = False,
) -> Response:
    """Create a resource, or replay the response that is stored for this Idempotency-Key.

    Successes and conflicts are stored. After any other refusal the key is free again. After a failure, whose effects
    are unknown, the key stays reserved for the same request: a retry calls `resume` before `create`.

    Args:
        request: the HTTP request.
        caller: the client.
        services: the use cases.
        key: the Idempotency-Key; None: create without one.
        create: creates the resource with this id.
        to_response: makes the response.
        resume: finds the resource that an interrupted request with the same key created under this id.
        renews_id: take a new id when `resume` found nothing, because it removed what was left under the old one.
    """
    if key is None:
        return to_response(await create(new_id()))
    claim = await services[IdempotencyService].claim(caller, key, await _idempotent(request))
    if isinstance(claim, StoredResponse):
        return _replay(claim)
    try:
        response = to_response(await _resume_or_create(claim, resume, create, renews_id=renews_id))
    except Conflict as error:
        response = problem_response(caller.request_id, error)
    except BaseException as error:
        await _end(claim, error)
        raise
    await claim.store(_stored(response))
    return response


async def _idempotent(request: Request) -> IdempotentRequest:
    return IdempotentRequest(method=request.method, path=request.url.path, body=await request.body())


async def _resume_or_create(
    claim: IdempotencyClaim,
    resume: Callable[[UUID], Awaitable[Created | None]] | None,
    create: Callable[[UUID], Awaitable[Created]],
    *,
    renews_id: bool,
) -> Created:
    if claim.is_resumed:
        if resume is not None and (found := await resume(claim.resource_id)) is not None:
            return found
        if renews_id:
            await claim.renew_resource_id()
    return await create(claim.resource_id)


async def _end(claim: IdempotencyClaim, error: BaseException) -> None:
    """Free the key after a refusal; after a failure, keep it for the same request."""
    is_refusal = isinstance(error, ByokError) and not isinstance(error, Unavailable)
    with suppress(Unavailable):  # without the database the claim times out
        await (claim.release() if is_refusal else claim.allow_retry())


def _stored(response: Response) -> StoredResponse:
    headers = {name: value for name, value in response.headers.items() if name in _STORED_HEADERS}
    return StoredResponse(status_code=response.status_code, headers=headers, body=bytes(response.body))


def _replay(stored: StoredResponse) -> Response:
    return Response(
        stored.body,
        status_code=stored.status_code,
        headers={**stored.headers, "Idempotency-Replayed": "true"},
    )
