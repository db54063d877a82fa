"""Why a URL is refused, in words that tell the admin how to mend it."""

from enum import StrEnum

from app.core.errors import InvalidInput, Unavailable


class UrlReason(StrEnum):
    """Why a URL is refused, in order of precedence. Stable codes of the contract."""

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

# What is wrong and how to mend it. Constants: a URL may hold a key that was pasted into it.
MESSAGES: dict[UrlReason, str] = {
    _R.MALFORMED: (
        "This is not a full URL. Write it like https://gateway.example.com/anthropic: at most 2048 characters, "
        "no spaces, quotes, braces, backslashes or invisible characters."
    ),
    _R.SCHEME_NOT_HTTPS: "The URL must begin with https://.",
    _R.USERINFO_PRESENT: (
        "Remove everything between https:// and the @, and the @. Secrets belong in the key's own field; "
        "one that stood in the URL should be replaced."
    ),
    _R.PORT_NOT_ALLOWED: "Only port 443 is allowed. Remove the colon and the port.",
    _R.QUERY_PRESENT: "Remove the ? and everything after it: the URL may not have a query.",
    _R.FRAGMENT_PRESENT: "Remove the # and everything after it: the URL may not have a fragment.",
    _R.HOST_IS_IP: "Use a host name in place of the IP address.",
    _R.HOST_IS_LOCALHOST: "This name means the machine itself. Use the provider's public host name.",
    _R.HOST_INVALID: (
        "The host name is not valid. Check its spelling: parts separated by single dots, each of 1 to 63 letters, "
        "digits and hyphens, with no hyphen at either end."
    ),
    _R.HOST_IS_RESERVED_NAME: (
        "This name exists in private networks only. Use the provider's public host name, such as gateway.example.com."
    ),
    _R.PATH_NOT_ALLOWED: (
        "Remove from the path: . and .. segments, % not followed by two hexadecimal digits, and encoded slashes, "
        "backslashes, dots and control characters."
    ),
    _R.DNS_NO_RECORDS: "The host name has no address. Check its spelling, or wait until its DNS records are published.",
    _R.DNS_PRIVATE_ADDRESS: (
        "The host name leads to an address outside the public internet. Publish the provider at a public address, "
        "or ask the operator of this service to allow the host."
    ),
}


class UrlRefused(InvalidInput):
    """The URL breaks the policy. Carries the reason, never the URL."""

    def __init__(self, reason: UrlReason, *, field: str = "base_url") -> None:
        refusal = InvalidInput.of(field, reason.value, MESSAGES[reason])
        super().__init__(*refusal.errors, code=refusal.problem_code)
        self.reason = reason


class DnsUnavailable(Unavailable):
    """No resolver answered, it could not find out, or it knows more addresses than we look at. Worth repeating.

    Says nothing about whether the name may be used.
    """

    code = "dns_unavailable"
    detail = "The host name could not be looked up right now. Repeat the request in a moment."
