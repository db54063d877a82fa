"""Response model of a link to an export."""

from typing import Annotated

from pydantic import Field

from app.api.schemas import ResponseModel, Timestamp
from app.export_links.service import NewLink


class ExportLink(ResponseModel):
    """A link that a browser opens without a token, once."""

    path: Annotated[
        str,
        Field(
            description="The path of the file on this service. It contains a code: do not log or store it.",
            examples=["/exports/org_acme/EXAMPLE-EXAMPLE-EXAMPLE-EXAMPLE-EXAMPLE-EXA"],
        ),
    ]
    expires_at: Timestamp

    @classmethod
    def of(cls, organization_id: str, link: NewLink) -> "ExportLink":
        return cls(path=f"/exports/{organization_id}/{link.code}", expires_at=link.expires_at)
