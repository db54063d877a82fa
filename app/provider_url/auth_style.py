"""Chooses the header that carries a key, if the admin chose none. docs/how-to/custom-provider.md has the sources."""

from typing import Final

from app.provider_url.endpoint import AuthStyle, ProviderEndpoint

ANTHROPIC_HOST: Final = "api.anthropic.com"

# One Azure resource has several host names, and its clouds have several domains. All accept the resource's key in the
# same header. Sources: Anthropic, "Claude in Microsoft Foundry"; Microsoft, "Custom subdomain names for Azure AI
# services" and "Compare Azure Government and global Azure".
_AZURE_HOSTS: Final = tuple(
    f".{service}.azure.{domain}"
    for service in ("services.ai", "openai", "cognitiveservices")
    for domain in ("com", "us", "cn")
)
# A leading dot matches any subdomain.
_X_API_KEY_HOSTS: Final = (
    ANTHROPIC_HOST,  # Anthropic, "API overview"
    "api.deepseek.com",  # DeepSeek, "Anthropic API"
    "gateway.ai.cloudflare.com",  # Cloudflare, "AI Gateway: Anthropic"; passes the header through
    *_AZURE_HOSTS,
)


def default_auth_style(host: str) -> AuthStyle:
    """The auth style for this host if the admin chose none: by the documentation of the known providers."""
    dotted = f".{host}"
    is_known = any(
        dotted.endswith(known) and dotted != known if known[0] == "." else host == known
        for known in _X_API_KEY_HOSTS
    )
    return AuthStyle.X_API_KEY if is_known else AuthStyle.BEARER


def other_auth_style(endpoint: ProviderEndpoint) -> AuthStyle | None:
    """The auth style that a custom endpoint does not use; None for Anthropic, which accepts both."""
    if endpoint.base_url in {None, f"https://{ANTHROPIC_HOST}"}:
        return None
    return AuthStyle.BEARER if endpoint.auth_style is AuthStyle.X_API_KEY else AuthStyle.X_API_KEY
