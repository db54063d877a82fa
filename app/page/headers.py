"""The headers of `/billing` and everything below it. They replace the general ones, whose policy forbids scripts."""

from collections.abc import Sequence

_PERMISSIONS = ("clipboard-read", "camera", "microphone", "geolocation", "display-capture")


def page_headers(*, issuer_origin: str | None, frame_ancestors: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """The security headers of the page.

    Args:
        issuer_origin: the origin of the identity provider, from which the page fetches tokens. None: not needed.
        frame_ancestors: the origins that may show the page in an iframe.
    """
    policy = (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        f"connect-src 'self' {issuer_origin}" if issuer_origin else "connect-src 'self'",
        "img-src 'self' data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors " + (" ".join(frame_ancestors) or "'none'"),
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
    return (
        ("X-Content-Type-Options", "nosniff"),
        ("Content-Security-Policy", "; ".join(policy)),
        ("Cross-Origin-Opener-Policy", "same-origin"),
        ("Permissions-Policy", ", ".join(f"{name}=()" for name in _PERMISSIONS)),
        ("Referrer-Policy", "no-referrer"),
        ("Cross-Origin-Resource-Policy", "same-origin"),
        ("Strict-Transport-Security", "max-age=63072000; includeSubDomains"),
    )
