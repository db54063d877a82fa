"""Tests of the auth style that a host gets if the admin chose none."""

import itertools

import pytest

from app.provider_url.auth_style import default_auth_style, other_auth_style
from app.provider_url.endpoint import AuthStyle, ProviderEndpoint

AZURE_SERVICES = ("services.ai", "openai", "cognitiveservices")
AZURE_DOMAINS = ("com", "us", "cn")


def endpoint(base_url: str | None, style: AuthStyle) -> ProviderEndpoint:
    return ProviderEndpoint(
        base_url=base_url, messages_url="", auth_style=style, workspace_id=None, probe_model=None
    )


class TestDefault:
    @pytest.mark.parametrize(
        ("host", "style"),
        [
            ("api.anthropic.com", AuthStyle.X_API_KEY),
            ("api.deepseek.com", AuthStyle.X_API_KEY),
            ("gateway.ai.cloudflare.com", AuthStyle.X_API_KEY),
            ("services.ai.azure.com.example.com", AuthStyle.BEARER),
            ("xservices.ai.azure.com", AuthStyle.BEARER),
            ("openai.azure.com", AuthStyle.BEARER),
            ("contoso.azure-api.net", AuthStyle.BEARER),
            ("contoso.openai.azure.de", AuthStyle.BEARER),
            ("xapi.anthropic.com", AuthStyle.BEARER),
            ("api.anthropic.com.example.com", AuthStyle.BEARER),
            ("openrouter.ai", AuthStyle.BEARER),
            ("api.fireworks.ai", AuthStyle.BEARER),
        ],
    )
    def test_is_the_documented_one(self, host: str, style: AuthStyle) -> None:
        assert default_auth_style(host) is style

    @pytest.mark.parametrize("service", AZURE_SERVICES)
    @pytest.mark.parametrize("domain", AZURE_DOMAINS)
    def test_is_the_same_for_all_names_of_an_azure_resource(self, service: str, domain: str) -> None:
        assert default_auth_style(f"contoso-ai.{service}.azure.{domain}") is AuthStyle.X_API_KEY


class TestOther:
    def test_is_the_one_that_a_custom_endpoint_does_not_use(self) -> None:
        for style, other in itertools.permutations(AuthStyle):
            assert other_auth_style(endpoint("https://gw.example.com", style)) is other

    @pytest.mark.parametrize("base_url", [None, "https://api.anthropic.com"])
    def test_is_none_for_anthropic(self, base_url: str | None) -> None:
        assert other_auth_style(endpoint(base_url, AuthStyle.X_API_KEY)) is None
