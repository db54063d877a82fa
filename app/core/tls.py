"""The TLS context of every outgoing connection for which the service creates one."""

import ssl
from functools import lru_cache
from pathlib import Path

import certifi


def tls_context(ca_file: Path | None = None, *, with_public_roots: bool = True) -> ssl.SSLContext:
    """Create a client context: TLS 1.2 or later, certificate and host name always verified.

    `ssl.create_default_context` is not used because it obeys SSLKEYLOGFILE, which writes session keys to a file.

    Args:
        ca_file: PEM file of additional certificates to trust.
        with_public_roots: whether to trust the public roots too.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.hostname_checks_common_name = False
    if with_public_roots:
        context.load_verify_locations(cafile=certifi.where())
    if ca_file is not None:
        context.load_verify_locations(cafile=ca_file)
    return context


@lru_cache(maxsize=16)
def shared_tls_context(ca_file: Path | None = None) -> ssl.SSLContext:
    """The context with the public roots for all HTTP clients of this process, because reading the roots takes 20 ms.

    They change only its protocol, to `http/1.1`. The client of Vault changes more, in threads, so it creates a context.
    """
    return tls_context(ca_file)
