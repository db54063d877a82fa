"""Response model of the session."""

from typing import Annotated

from pydantic import Field

from app.api.schemas import ResponseModel, Subject, Timestamp
from app.auth.principal import Principal


class Session(ResponseModel):
    """Whose token the request carried, and what it allows."""

    subject: Subject
    organization_id: Annotated[
        str,
        Field(description="The organization of the token; `*` for internal services.", examples=["org_acme"]),
    ]
    scopes: Annotated[
        list[str], Field(description="Sorted.", examples=[["billing:read", "credentials:read"]])
    ]
    expires_at: Timestamp

    @classmethod
    def of(cls, principal: Principal) -> "Session":
        return cls(
            subject=principal.subject,
            organization_id=principal.organization_id,
            scopes=sorted(principal.scopes),
            expires_at=principal.expires_at,
        )
