"""Builds the billing page from the settings."""

from app.composition.development_issuer import embedded_issuer
from app.page.document import PageConfig
from app.page.router import BillingPage
from app.page.sign_in import SignIn
from app.settings.settings import Settings


def billing_page(settings: Settings) -> BillingPage | None:
    """The page, or None if it is off."""
    if not settings.is_page_enabled:
        return None
    is_embedded = settings.auth.jwks_url is None
    return BillingPage(
        config=PageConfig(
            issuer=settings.auth.issuer,
            client_id=settings.page.client_id,
            authorize_scope=settings.page.authorize_scope,
            frame_ancestors=settings.page.frame_ancestors,
        ),
        sign_in=SignIn(embedded_issuer(settings), settings.data_dir) if is_embedded else None,
        hosts=frozenset({settings.host}),
    )
