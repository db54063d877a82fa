"""The URLs of servers that an operator sets. They follow the customers' rules for paths, so that a pasted URL works.

The operator is trusted: any host, port and address is allowed. No error message contains a value.
"""

import re
from typing import Annotated
from urllib.parse import SplitResult

from pydantic import BeforeValidator

from app.core.loopback import is_loopback
from app.provider_url.messages_path import MESSAGES_PATH, messages_path
from app.settings.types import InvalidSetting, split_url

_UNUSUAL_CHARACTER = re.compile(r"[\s\\<>\"{}^`|\x00-\x1f\x7f]")


def _provider_url(value: str) -> str:
    """Return the base URL, without the path of the messages endpoint."""
    parts = _split(value, example="https://api.anthropic.com")
    if parts.scheme == "http" and not is_loopback(parts.hostname or ""):
        raise InvalidSetting(
            "must be https; plain http is allowed only for loopback addresses in development"
        )
    path = messages_path(parts.path)
    if path is None:
        raise InvalidSetting(
            "must be the base URL, such as https://api.anthropic.com; remove the path of the endpoint, because"
            " /v1/messages is added"
        )
    return f"{parts.scheme}://{parts.netloc}{path.removesuffix(MESSAGES_PATH)}"


def _vault_address(value: str) -> str:
    """Return the address without the `/v1` of the HTTP API, which the client adds."""
    parts = _split(value, example="https://vault.example.com:8200")
    segments = [segment for segment in parts.path.split("/") if segment]
    if "ui" in segments:
        raise InvalidSetting("must be the address of the server; remove /ui and everything after it")
    if segments[-1:] == ["v1"]:
        del segments[-1]
    if "v1" in segments:
        raise InvalidSetting("must be the address of the server; remove /v1 and everything after it")
    return "/".join([f"{parts.scheme}://{parts.netloc}", *segments])


def _split(value: str, *, example: str) -> SplitResult:
    expected = f"must be a URL such as {example}"
    parts = None if _UNUSUAL_CHARACTER.search(value) else split_url(value)
    if parts is None or parts.scheme not in {"https", "http"}:
        raise InvalidSetting(expected)
    if "@" in parts.netloc:
        raise InvalidSetting(expected + ", without credentials")
    if "?" in value or "#" in value:
        raise InvalidSetting(expected + ", without a query and a fragment")
    return parts


ProviderBaseUrl = Annotated[str, BeforeValidator(lambda value: _provider_url(str(value)))]
VaultAddress = Annotated[str, BeforeValidator(lambda value: _vault_address(str(value)))]
