"""An identity provider with the authorization code flow and PKCE, for the page's popup."""

import base64
import hashlib
import json
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit


class IdentityProvider:
    """Signs in every visitor at once. `token` is what it issues. It accepts each code once, with the right verifier."""

    def __init__(self, token: str) -> None:
        self.token = token
        self.origin = ""
        self.challenges: dict[str, str] = {}
        self.queries: list[dict[str, list[str]]] = []
        self.refused: list[str] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "http"
        path = scope["path"]
        if path == "/.well-known/openid-configuration":
            endpoints = {
                "authorization_endpoint": f"{self.origin}/authorize",
                "token_endpoint": f"{self.origin}/token",
            }
            await _send(send, 200, json.dumps({"issuer": self.origin, **endpoints}))
        elif path == "/authorize":
            await _send(send, 302, "", location=self._authorize(parse_qs(scope["query_string"].decode())))
        elif path == "/token" and scope["method"] == "POST":
            form = parse_qs((await receive())["body"].decode())
            if self._is_valid(form):
                issued = {"access_token": self.token, "token_type": "Bearer", "expires_in": 3600}
                await _send(send, 200, json.dumps(issued))
            else:
                self.refused.append(form["code"][0])
                await _send(send, 400, '{"error":"invalid_grant"}')
        else:
            await _send(send, 404, "{}")

    def _authorize(self, query: dict[str, list[str]]) -> str:
        self.queries.append(query)
        code = f"code-{len(self.queries)}"
        self.challenges[code] = query["code_challenge"][0]
        redirect = urlsplit(query["redirect_uri"][0])
        return (
            f"{redirect.geturl()}?{urlencode({'code': code, 'state': query['state'][0], 'iss': self.origin})}"
        )

    def _is_valid(self, form: dict[str, list[str]]) -> bool:
        digest = hashlib.sha256(form["code_verifier"][0].encode()).digest()
        challenge = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
        return self.challenges.pop(form["code"][0], None) == challenge


async def _send(send: Any, status: int, body: str, *, location: str | None = None) -> None:
    headers = [(b"content-type", b"application/json"), (b"access-control-allow-origin", b"*")]
    if location is not None:
        headers.append((b"location", location.encode()))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body.encode()})
