"""Where a key may be sent: chosen when the key is entered, and bound to it from then on."""

from app.provider_url.endpoint import AuthStyle, ProviderEndpoint
from app.provider_url.service import ProviderUrlService
from app.provider_url.url import ProviderURL, default_auth_style


class EndpointService:
    """Builds destinations; a host that a customer entered must lead to public addresses only."""

    def __init__(self, provider_urls: ProviderUrlService, *, default_messages_url: str) -> None:
        self._provider_urls = provider_urls
        self._default_messages_url = default_messages_url

    async def choose(
        self,
        *,
        base_url: ProviderURL | None,
        auth_style: AuthStyle | None,
        workspace_id: str | None,
        probe_model: str | None,
    ) -> ProviderEndpoint:
        """Without a base URL: the operator's default endpoint. Without a style: the host's usual one.

        Raises:
            UrlRefused, DnsUnavailable
        """
        if base_url is not None:
            await self._provider_urls.vet(base_url)
            auth_style = auth_style or default_auth_style(base_url.host)
        return ProviderEndpoint(
            base_url=None if base_url is None else base_url.base_url,
            messages_url=self._default_messages_url if base_url is None else base_url.messages_url,
            auth_style=auth_style or AuthStyle.X_API_KEY,
            workspace_id=workspace_id,
            probe_model=probe_model,
        )

    async def choose_again(
        self,
        current: ProviderEndpoint,
        given: frozenset[str],
        *,
        base_url: ProviderURL | None,
        auth_style: AuthStyle | None,
        workspace_id: str | None,
        probe_model: str | None,
    ) -> ProviderEndpoint:
        """For a new key: what is `given` by name, else what the key in use has.

        The style is kept with the host it was chosen for.

        Raises:
            UrlRefused, DnsUnavailable
        """
        if "base_url" not in given and current.base_url is not None:
            base_url = ProviderURL(current.messages_url)  # a base URL that ends in /v1 reads differently
        is_same = current.base_url == (None if base_url is None else base_url.base_url)
        return await self.choose(
            base_url=base_url,
            auth_style=current.auth_style if is_same and "auth_style" not in given else auth_style,
            workspace_id=workspace_id if "workspace_id" in given else current.workspace_id,
            probe_model=probe_model if "probe_model" in given else current.probe_model,
        )
