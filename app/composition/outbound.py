"""The clients of what is outside: providers, webhook receivers and the relay's connections; and checks for `byok doctor`."""

import ssl
from contextlib import AsyncExitStack
from ipaddress import IPv6Network

import httpcore
import httpx

from app.core.tls import shared_tls_context
from app.credentials.validation_results import Reason
from app.egress.anthropic import AnthropicClient
from app.egress.http_client import http_client
from app.egress.issuer_check import IssuerReport, inspect_issuer
from app.egress.resolver import AddressGuard, DnsResolver
from app.egress.streaming.connections import Route
from app.egress.transport import operator_endpoint_transport, pinned_transport
from app.egress.webhooks import LIMITS as WEBHOOK_LIMITS
from app.egress.webhooks import WebhookClient
from app.relay.transport import ProviderClient, Timeouts, open_client
from app.settings.settings import Settings
from app.settings.types import MessagePatternsByName
from app.validation.message_patterns import DEFAULT_PATTERNS, HostPatterns, MessagePatterns


def address_guard(settings: Settings) -> AddressGuard:
    return AddressGuard(
        DnsResolver(settings.dns.nameservers),
        allowed_hosts=settings.provider.allowed_hosts,
        nat64=[IPv6Network(prefix) for prefix in settings.dns.nat64_prefixes],
    )


async def open_provider_client(
    settings: Settings,
    guard: AddressGuard,
    tls: ssl.SSLContext,
    resources: AsyncExitStack,
    network_backend: httpcore.AsyncNetworkBackend | None = None,
) -> AnthropicClient:
    """A client with two transports: to the operator's endpoint, and pinned to validated addresses of customers' URLs."""
    config = settings.provider
    trusted = httpx.AsyncClient(
        transport=operator_endpoint_transport(config.default_base_url, tls=tls), trust_env=False
    )
    custom = httpx.AsyncClient(
        transport=pinned_transport(guard, tls=tls, network_backend=network_backend), trust_env=False
    )
    return AnthropicClient(
        await resources.enter_async_context(trusted),
        default_messages_url=settings.messages_url,
        custom_http=await resources.enter_async_context(custom),
        patterns=_message_patterns(config.message_patterns),
        timeout_seconds=config.timeout.total_seconds(),
    )


def _message_patterns(config: MessagePatternsByName) -> MessagePatterns:
    """The built-in words with those of the operator."""
    if not config:
        return DEFAULT_PATTERNS
    defaults = DEFAULT_PATTERNS
    return MessagePatterns(
        cors_refused=tuple(config.get("cors_refused", defaults.cors_refused)),
        billing_problem=tuple(config.get("billing_problem", ())),
        spend_cap=tuple(config.get("spend_cap", ())),
        organization_disabled=tuple(config.get("organization_disabled", defaults.organization_disabled)),
        workspace_required=tuple(config.get("workspace_required", defaults.workspace_required)),
        model_missing=tuple(config.get("model_missing", ())),
        billing_codes=frozenset(config.get("billing_codes", ())),
        hosts={
            name: HostPatterns(
                billing_problem=tuple(host.get("billing_problem", ())),
                billing_codes=frozenset(host.get("billing_codes", ())),
            )
            for name, host in config.get("hosts", {}).items()
        },
    )


async def open_webhook_client(
    guard: AddressGuard,
    tls: ssl.SSLContext,
    resources: AsyncExitStack,
    network_backend: httpcore.AsyncNetworkBackend | None,
) -> WebhookClient:
    """A client with a separate connection pool, so that slow webhook receivers do not delay validations."""
    transport = pinned_transport(
        guard,
        tls=tls,
        limits=WEBHOOK_LIMITS,
        network_backend=network_backend,
    )
    http = httpx.AsyncClient(transport=transport, trust_env=False)
    return WebhookClient(await resources.enter_async_context(http))


def open_relay_client(
    settings: Settings,
    guard: AddressGuard,
    tls: ssl.SSLContext,
    resources: AsyncExitStack,
    route: Route,
) -> ProviderClient:
    """The relay's connections to providers, apart from those of validations."""
    return open_client(
        guard,
        resources,
        operator_base_url=settings.provider.default_base_url,
        tls=tls,
        timeouts=Timeouts(
            upload_seconds=settings.relay.body_timeout.total_seconds(),
            idle_seconds=settings.relay.idle_timeout.total_seconds(),
        ),
        route=route,
    )


async def check_provider(settings: Settings) -> Reason | None:
    """Why the provider's default endpoint cannot be reached; `None` if it can be reached."""
    async with AsyncExitStack() as resources:
        tls = shared_tls_context(settings.provider.ca_file)
        provider = await open_provider_client(settings, address_guard(settings), tls, resources)
        return await provider.unreachable_reason(settings.provider.default_base_url)


async def check_issuer(settings: Settings) -> IssuerReport | None:
    """What the issuer publishes, for `byok doctor`; None with the embedded key."""
    auth = settings.auth
    if auth.jwks_url is None or auth.issuer is None:
        return None
    async with http_client(ca_file=auth.ca_file) as http:
        return await inspect_issuer(http, issuer=auth.issuer, jwks_url=auth.jwks_url)
