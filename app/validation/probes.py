"""The requests that validate a key, and the failures to get a response to one."""

from enum import StrEnum


class Probe(StrEnum):
    """The request that was sent. Its body never varies, so an error about the body does not depend on the key."""

    MODELS = "models"  # GET /v1/models?limit=1
    MESSAGE = "message"  # POST /v1/messages: one token of a named model
    EMPTY_MESSAGE = "empty_message"  # POST /v1/messages with {}: rejected only after the key was accepted


class TransportFailure(StrEnum):
    """Why the provider sent no response."""

    TIMEOUT = "timeout"
    TLS = "tls"
    UNREACHABLE = "unreachable"
    RESET = "reset"  # the connection broke before the response was complete
    DNS = "dns"  # no resolver responded; a name that does not exist is UNREACHABLE
    ADDRESS_REFUSED = "address_refused"
