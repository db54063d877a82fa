"""The HTML of the page: one element, whose attributes carry the settings. It has no inline script and no style."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape


@dataclass(frozen=True, slots=True, kw_only=True)
class PageConfig:
    """What the operator configures. Without an issuer the page signs in with a code of `byok page`."""

    issuer: str | None = None
    client_id: str | None = None
    authorize_scope: str = "openid"
    frame_ancestors: Sequence[str] = ()


def render(config: PageConfig, preloaded: Iterable[str]) -> bytes:
    """The document at `/billing`."""
    attributes = {
        "issuer": config.issuer,
        "client-id": config.client_id,
        "authorize-scope": config.authorize_scope if config.client_id else None,
        "parents": " ".join(config.frame_ancestors) or None,
    }
    given = "".join(f' {name}="{escape(value)}"' for name, value in attributes.items() if value)
    links = "".join(f'<link rel="modulepreload" href="billing/{escape(name)}">\n' for name in preloaded)
    body = f"<pharaoh-byok{given}></pharaoh-byok><noscript>This page needs JavaScript.</noscript>"
    return _html("Billing", f'{links}<script type="module" src="billing/boot.js"></script>', body)


def render_callback() -> bytes:
    """The document to which the identity provider sends the browser back, in the popup."""
    return _html("Signing in", '<script type="module" src="callback.js"></script>', "<p>Signing in…</p>")


def _html(title: str, head: str, body: str) -> bytes:
    page = "billing/" if title == "Billing" else ""
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{title}</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n<link rel="icon" href="data:,">\n'
        f'<link rel="stylesheet" href="{page}document.css">\n{head}\n</head>\n<body>{body}</body>\n</html>\n'
    ).encode()
