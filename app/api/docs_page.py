"""The API documentation as plain HTML. It has no scripts, so that no third-party code runs on this origin."""

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

from fastapi import Request, Response

from app.api.routing import Router

router = Router(include_in_schema=False)

_STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:56rem;margin:2rem auto;padding:0 1rem;color:#1a1a1a}
code{background:#f2f2f2;padding:.1em .3em;border-radius:3px}
section{border-top:1px solid #ddd;padding:.5rem 0}.method{display:inline-block;min-width:4rem;font-weight:700}
td{padding:.1rem 1rem .1rem 0;vertical-align:top}
"""


# Browsers, proxies and monitors ask for the head of a page. The server leaves out the body.
PAGE_METHODS = ["GET", "HEAD"]


@router.api_route("/docs", methods=PAGE_METHODS)
async def docs(request: Request) -> Response:
    """Render every operation with its parameters and responses."""
    return Response("".join(_page(request.app.openapi())), media_type="text/html; charset=utf-8")


def _page(document: Mapping[str, Any]) -> Iterator[str]:
    title = escape(document["info"]["title"])
    yield f"<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title><style>{_STYLE}</style>"
    yield f"<h1>{title} {escape(document['info']['version'])}</h1>"
    yield f"<p>{escape(document['info']['description'])}</p><p><a href=openapi.json>openapi.json</a></p>"
    for path, item in document["paths"].items():
        for method, operation in item.items():
            yield from _operation(path, method, operation)


def _operation(path: str, method: str, operation: Mapping[str, Any]) -> Iterator[str]:
    yield f"<section id={escape(operation['operationId'])}><h2>{escape(operation['summary'])}</h2>"
    yield f"<p><span class=method>{method.upper()}</span> <code>{escape(path)}</code></p>"
    yield f"<p>{escape(operation.get('description', ''))}</p><table>"
    for parameter in operation.get("parameters", ()):
        name, location = escape(parameter["name"]), escape(parameter["in"])
        yield f"<tr><td><code>{name}</code><td>{location}<td>{escape(parameter.get('description', ''))}"
    for status, response in operation["responses"].items():
        yield f"<tr><td><code>{escape(status)}</code><td>response<td>{escape(response['description'])}"
    yield "</table></section>"
