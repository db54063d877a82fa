"""Answers: a response model straight to bytes, and Idempotency-Key around whatever makes one."""

from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from uuid import UUID

from fastapi import Request, Response

from app.api.problems import problem_response
from app.api.schemas import ResponseModel
from app.auth.principal import Caller
from app.core.clock import new_id
from app.core.errors import ByokError, Conflict, Unavailable
from app.core.services import Services
from app.idempotency.repository import KeptAnswer
from app.idempotency.service import Hold, IdempotencyService
from app.idempotency.service import IdempotentRequest as IdempotentRequest

_KEPT_HEADERS = ("content-type", "etag", "location", "preference-applied")


def answer(model: ResponseModel, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """The model as it goes out. Made by us from masked records, so it is not validated again."""
    return Response(
        model.to_json(),
        status_code=status,
        headers=None if headers is None else dict(headers),
        media_type="application/json",
    )


async def once(
    request: Request,
    caller: Caller,
    services: Services,
    key: str | None,
    make: Callable[[Hold | None], Awaitable[Response]],
) -> Response:
    """Make the answer, or repeat the one that was made under this Idempotency-Key.

    Kept are successes and conflicts. After a refusal the key is free again; after a failure, whose
    effects nobody knows, it is open to the same request alone, which resumes what there is.
    """
    if key is None:
        return await make(None)
    held = await services[IdempotencyService].claim(
        caller,
        key,
        IdempotentRequest(method=request.method, path=request.url.path, body=await request.body()),
    )
    if isinstance(held, KeptAnswer):
        return _replayed(held)
    try:
        response = await make(held)
    except Conflict as error:
        response = problem_response(caller.request_id, error)
    except BaseException as error:
        is_refusal = isinstance(error, ByokError) and not isinstance(error, Unavailable)
        await _unless_down(held.release() if is_refusal else held.let_go())
        raise
    await held.keep(_kept(response))
    return response


def resource_id(held: Hold | None) -> UUID:
    """The id for what a request creates."""
    return new_id() if held is None else held.resource_id


async def _unless_down(ending: Awaitable[None]) -> None:
    """Without the database the hold ends by itself, after its time."""
    with suppress(Unavailable):
        await ending


def _kept(response: Response) -> KeptAnswer:
    headers = {name: value for name, value in response.headers.items() if name in _KEPT_HEADERS}
    return KeptAnswer(status_code=response.status_code, headers=headers, body=bytes(response.body))


def _replayed(kept: KeptAnswer) -> Response:
    return Response(
        kept.body, status_code=kept.status_code, headers={**kept.headers, "Idempotency-Replayed": "true"}
    )
