"""Why a provider URL is rejected: stable reason codes, and a message that explains how to fix the URL."""

from enum import StrEnum
from typing import Final

from app.core.errors import InvalidInput, Unavailable


class UrlReason(StrEnum):
    """Why a URL is rejected, in order of precedence. The codes are part of the API contract."""

    MALFORMED = "malformed"
    SCHEME_NOT_HTTPS = "scheme_not_https"
    USERINFO_PRESENT = "userinfo_present"
    PORT_NOT_ALLOWED = "port_not_allowed"
    QUERY_PRESENT = "query_present"
    FRAGMENT_PRESENT = "fragment_present"
    HOST_IS_IP = "host_is_ip"
    HOST_IS_LOCALHOST = "host_is_localhost"
    HOST_INVALID = "host_invalid"
    HOST_IS_RESERVED_NAME = "host_is_reserved_name"
    PATH_NOT_ALLOWED = "path_not_allowed"
    DNS_NO_RECORDS = "dns_no_records"
    DNS_PRIVATE_ADDRESS = "dns_private_address"


_R = UrlReason

# Constant texts: a rejected URL may contain a pasted key, so no message quotes it.
MESSAGES: dict[UrlReason, str] = {
    _R.MALFORMED: (
        "Must be a complete URL such as https://gateway.example.com/anthropic, with at most 2048 characters and "
        "without spaces, quotes, braces, backslashes or invisible characters."
    ),
    _R.SCHEME_NOT_HTTPS: "Must start with https://.",
    _R.USERINFO_PRESENT: (
        "The URL contains credentials. Remove the @ and everything between https:// and the @. "
        "Send keys only in `api_key`; replace a key that was part of the URL."
    ),
    _R.PORT_NOT_ALLOWED: "Only port 443 is allowed. Remove the colon and the port number.",
    _R.QUERY_PRESENT: "A query is not allowed. Remove the ? and everything after it.",
    _R.FRAGMENT_PRESENT: "A fragment is not allowed. Remove the # and everything after it.",
    _R.HOST_IS_IP: "IP addresses are not allowed. Use a host name.",
    _R.HOST_IS_LOCALHOST: "The host name refers to the local machine. Use the provider's public host name.",
    _R.HOST_INVALID: (
        "Invalid host name. Use labels separated by single dots, each with 1 to 63 letters, digits or hyphens "
        "and without a hyphen at either end."
    ),
    _R.HOST_IS_RESERVED_NAME: (
        "The host name is reserved for private networks. Use a public host name such as gateway.example.com."
    ),
    _R.PATH_NOT_ALLOWED: (
        "Invalid path. Remove . and .. segments, % signs that two hexadecimal digits do not follow, and encoded "
        "slashes, backslashes, dots and control characters."
    ),
    _R.DNS_NO_RECORDS: "The host name has no DNS address records. Check its spelling, or wait until the records are published.",
    _R.DNS_PRIVATE_ADDRESS: (
        "The host name resolves to an address that is not on the public internet. Publish the provider at a "
        "public address, or ask the operator of this service to allow the host."
    ),
}


# A case of `path_not_allowed` with its own message.
OTHER_ENDPOINT: Final = "path_of_other_endpoint"
OTHER_ENDPOINT_MESSAGE: Final = (
    "This is the URL of another endpoint. Enter only the base URL, such as https://gateway.example.com/anthropic: "
    "remove /chat/completions, /v1/models, /messages or the like from its end. /v1/messages, in lower case, is added "
    "to it."
)


class UrlRefused(InvalidInput):
    """The URL violates the URL policy. Carries the reason, never the URL.

    `kind` distinguishes cases of a reason that have their own message.
    """

    def __init__(self, reason: UrlReason, *, kind: str | None = None, field: str = "base_url") -> None:
        self.message = OTHER_ENDPOINT_MESSAGE if kind == OTHER_ENDPOINT else MESSAGES[reason]
        refusal = InvalidInput.of(field, reason.value, self.message)
        super().__init__(*refusal.errors, code=refusal.problem_code)
        self.reason = reason
        self.kind = kind or reason.value


class DnsUnavailable(Unavailable):
    """The DNS lookup failed, or returned more addresses than the service checks. The client may retry.

    Does not mean that the host name is not allowed.
    """

    code = "dns_unavailable"
    detail = "The host name cannot be resolved right now. Repeat the request in a moment."
