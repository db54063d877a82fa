"""Builds the provider endpoint of a new key version; the endpoint then stays bound to that version."""

from app.provider_url.auth_style import default_auth_style
from app.provider_url.endpoint import AuthStyle, ProviderEndpoint
from app.provider_url.service import ProviderUrlService
from app.provider_url.url import ProviderURL


class EndpointService:
    """Builds provider endpoints. A host that a customer entered must resolve only to allowed addresses."""

    def __init__(self, provider_urls: ProviderUrlService, *, default_messages_url: str) -> None:
        self._provider_urls = provider_urls
        self._default_messages_url = default_messages_url

    async def build(
        self,
        *,
        base_url: ProviderURL | None,
        auth_style: AuthStyle | None,
        workspace_id: str | None,
        probe_model: str | None,
    ) -> ProviderEndpoint:
        """Build the endpoint of a new credential.

        Without a base URL, the operator's default endpoint is used. Without an auth style, the host's usual one.

        Raises:
            UrlRefused, DnsUnavailable
        """
        if base_url is not None:
            await self._provider_urls.resolve_and_validate(base_url)
            auth_style = auth_style or default_auth_style(base_url.host)
        return ProviderEndpoint(
            base_url=None if base_url is None else base_url.base_url,
            messages_url=self._default_messages_url if base_url is None else base_url.messages_url,
            auth_style=auth_style or AuthStyle.X_API_KEY,
            workspace_id=workspace_id,
            probe_model=probe_model,
        )

    async def build_for_rotation(
        self,
        current: ProviderEndpoint,
        provided_fields: frozenset[str],
        *,
        base_url: ProviderURL | None,
        auth_style: AuthStyle | None,
        workspace_id: str | None,
        probe_model: str | None,
    ) -> ProviderEndpoint:
        """Build the endpoint of a rotation: fields in `provided_fields` are new, the others are copied from `current`.

        The auth style is copied only while the base URL stays the same.

        Raises:
            UrlRefused, DnsUnavailable
        """
        if "base_url" not in provided_fields and current.base_url is not None:
            base_url = ProviderURL(
                current.messages_url
            )  # a stored base URL that ends in /v1 would be parsed differently
        is_same = current.base_url == (None if base_url is None else base_url.base_url)
        return await self.build(
            base_url=base_url,
            auth_style=current.auth_style if is_same and "auth_style" not in provided_fields else auth_style,
            workspace_id=workspace_id if "workspace_id" in provided_fields else current.workspace_id,
            probe_model=probe_model if "probe_model" in provided_fields else current.probe_model,
        )
