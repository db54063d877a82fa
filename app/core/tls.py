"""The TLS of every connection that we open with a context of our own."""

import ssl
from pathlib import Path

import certifi


def tls_context(ca_file: Path | None = None, *, with_public_roots: bool = True) -> ssl.SSLContext:
    """TLS 1.2 or later, certificate and name always checked. Not `create_default_context`: that obeys SSLKEYLOGFILE.

    Args:
        ca_file: PEM certificates to trust.
        with_public_roots: whether the public roots are trusted besides.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.hostname_checks_common_name = False
    if with_public_roots:
        context.load_verify_locations(cafile=certifi.where())
    if ca_file is not None:
        context.load_verify_locations(cafile=ca_file)
    return context
