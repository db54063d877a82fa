"""Who may call: tokens, browsers and the billing page."""

from datetime import timedelta
from pathlib import Path

from pydantic import Field

from app.settings.groups.group import Group, Text
from app.settings.operator_urls import FrameAncestors, Origins
from app.settings.types import ClaimNames, Duration, ExactText


class AuthSettings(Group):
    """The bearer tokens of callers."""

    issuer: ExactText | None = Field(
        default=None, description="Required `iss` of every token. Set it together with `BYOK_AUTH__JWKS_URL`."
    )
    audience: ExactText = Field(
        default="byok", description="Required audience: the `aud` of every token must be or include it."
    )
    jwks_url: str | None = Field(
        default=None,
        description="URL of the issuer's signing keys. Plain HTTP is allowed only for loopback addresses in development."
        " If unset, tokens are signed with an embedded development key.",
    )
    ca_file: Path | None = Field(
        default=None,
        description="PEM file of certificates to trust for `BYOK_AUTH__JWKS_URL` and the discovery document, in addition to"
        " the public roots: for an issuer whose certificate is from a private CA. If unset, only the public roots are trusted.",
    )
    organization_claim: ExactText = Field(
        default="org",
        description="Claim with the organization id, or with `*` for internal services. A path with dots is possible,"
        " such as `byok.org`. See [Connect an identity provider](../how-to/identity-provider.md).",
    )
    scope_claims: ClaimNames = Field(
        default_factory=lambda: ["scope"],
        min_length=1,
        description="Comma-separated claims with scopes, each separated by spaces or a list, such as `scp,roles` or"
        " `permissions`. A token has the scopes of all of them.",
    )
    service_scope: ExactText | None = Field(
        default=None,
        description="A scope that marks internal services: a token with it and without the claim of the organization"
        " counts as `*`. For identity providers that cannot add that claim to the tokens of services. If unset, every"
        " token needs the claim.",
    )
    clock_skew: Duration = Field(
        default=timedelta(seconds=30),
        ge=timedelta(0),
        le=timedelta(minutes=5),
        description="Tolerated difference between the clocks of the issuer and of the service. An expired token stays"
        " valid for this time. At most 5 minutes.",
    )


class CorsSettings(Group):
    """Cross-origin requests of browsers."""

    allowed_origins: Origins = Field(
        default_factory=list,
        description="Comma-separated browser origins that may call the API, such as `https://app.example.com`. Empty"
        " means none.",
    )


class PageSettings(Group):
    """The billing page at `/billing`."""

    enabled: bool | None = Field(
        default=None,
        description="Whether to serve the billing page. If unset, only in development.",
    )
    client_id: Text | None = Field(
        default=None,
        description="Id of the page's public client at `BYOK_AUTH__ISSUER`. Its redirect URI is `/billing/callback`. If"
        " unset, the page does not sign in by itself: whatever embeds it supplies the token.",
    )
    authorize_scope: Text = Field(
        default="openid",
        description="Scopes that the page asks the issuer for, separated by spaces.",
    )
    frame_ancestors: FrameAncestors = Field(
        default_factory=list,
        description="Comma-separated origins that may show the page in an iframe and supply its token. Empty means none.",
    )
