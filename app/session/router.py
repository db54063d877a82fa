"""HTTP route of the session."""

from fastapi import Request, Response

from app.api.problems import problems
from app.api.responses import respond
from app.api.routing import Router
from app.session.schemas import Session

router = Router(prefix="/v1", tags=["session"])


@router.get(
    "/session",
    response_model=Session,
    operation_id="getSession",
    summary="Get the session",
    response_description="The subject, the organization and the scopes of the token.",
    responses=problems(),
)
async def get_session(request: Request) -> Response:
    """Get what the token of this request is for. Any valid token may ask; no scope is needed.

    A page shows the controls that the scopes allow. The service checks the scopes of every request anyway.
    """
    return respond(Session.of(request.state.principal))
