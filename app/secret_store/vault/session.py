"""A session in Vault as one role: obtains, renews and replaces the token, and classifies every response."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Literal, TypeAlias

import hvac

from app.secret_store.vault.client import VaultRequest, VaultServer
from app.secret_store.vault.responses import VaultReason, VaultResponse, VaultUnavailable

LoginMethod: TypeAlias = Literal["token", "approle", "kubernetes", "jwt"]

# A token with less time left counts as expired. For tokens with a short TTL, the last third counts.
_MARGIN_SECONDS = 60.0
_RENEW_AFTER = 2 / 3
_NEVER = float("inf")
_LOGIN_SECONDS = 10.0
_PAUSES = (0.05, 0.1, 0.2, 0.4)


@dataclass(frozen=True, slots=True, kw_only=True)
class VaultLogin:
    """The login of one or more roles. Roles with the same login share one token."""

    method: LoginMethod
    namespace: str | None = None
    token: str = field(default="", repr=False)
    role_id: str = ""
    secret_id: str = field(default="", repr=False)
    role: str = ""
    jwt_file: Path | None = None

    def perform(self, vault: hvac.Client) -> object:
        """Log in. A configured token is only looked up, to learn its TTL."""
        if self.method == "token":
            return vault.auth.token.lookup_self()
        if self.method == "approle":
            return vault.auth.approle.login(self.role_id, self.secret_id, use_token=False)
        assert self.jwt_file is not None
        try:
            # Read at every login, because the file is replaced before its token expires.
            jwt = self.jwt_file.read_text(encoding="ascii").strip()
        except (OSError, ValueError):
            return VaultResponse(0, failure=VaultReason.LOGIN_REFUSED)
        if self.method == "kubernetes":
            return vault.auth.kubernetes.login(self.role, jwt, use_token=False)
        return vault.auth.jwt.jwt_login(self.role, jwt, use_token=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Token:
    """A token with its client. Without a TTL it never expires, like a root token."""

    client: hvac.Client = field(repr=False)
    ttl_seconds: float = 0
    is_renewable: bool = False
    expires_at: float = _NEVER
    refresh_at: float = _NEVER

    def with_ttl(self, seconds: float, *, is_renewable: bool, since: float) -> "_Token":
        """The same token with a new TTL, counted from before the request for it was sent."""
        if not seconds:
            return self
        return replace(
            self,
            ttl_seconds=seconds,
            is_renewable=is_renewable,
            expires_at=since + seconds,
            refresh_at=since + seconds * _RENEW_AFTER,
        )

    def is_expiring(self, now: float) -> bool:
        return now > self.expires_at - min(_MARGIN_SECONDS, self.ttl_seconds / 3)


class VaultSession:
    """One login. Concurrent calls share the logins and renewals that they need.

    Args:
        clock: returns seconds, and never goes backwards.
    """

    def __init__(
        self, server: VaultServer, login: VaultLogin, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._server = server
        self._login = login
        self._clock = clock
        self._token: _Token | None = None
        self._refresh_task: asyncio.Task[_Token | VaultReason] | None = None

    async def call(self, request: VaultRequest) -> VaultResponse:
        """Send a request with a valid token. Returns a success, or a 400, 401, 403 or 404 about its content.

        Raises:
            VaultUnavailable: Vault did not process the request, or refused the login.
        """
        token = await self._active_token()
        response = await self._send(token, request)
        if response.is_denied:
            # Either the policy denies the request, or the token was revoked and a new one is needed.
            valid = await self._wait_for(partial(self._validate_or_replace, token))
            if valid is not token:
                response = await self._send(valid, request)
        return response

    async def close(self) -> None:
        if self._refresh_task is not None:
            self._refresh_task.cancel()
            await asyncio.wait([self._refresh_task])

    async def _active_token(self) -> _Token:
        token, now = self._token, self._clock()
        if token is None or token.is_expiring(now):
            return await self._wait_for(self._log_in)
        if now > token.refresh_at:
            self._start_or_share(
                partial(self._refresh, token)
            )  # not awaited, because the token is still valid
        return token

    async def _send(self, token: _Token, request: VaultRequest) -> VaultResponse:
        response = await self._send_with_retries(token.client, request)
        if response.unavailable_reason is not None:
            raise VaultUnavailable(response.unavailable_reason)
        return response

    async def _send_with_retries(self, client: hvac.Client, request: VaultRequest) -> VaultResponse:
        response = await self._server.send(client, request)
        for pause in _PAUSES:
            if not response.is_transient:
                break
            await asyncio.sleep(pause)
            response = await self._server.send(client, request)
        return response

    async def _wait_for(self, work: Callable[[], Awaitable[_Token | VaultReason]]) -> _Token:
        # Shielded: other calls still need the result when this one is cancelled.
        outcome = await asyncio.shield(self._start_or_share(work))
        if isinstance(outcome, VaultReason):
            raise VaultUnavailable(outcome)
        return outcome

    def _start_or_share(
        self, work: Callable[[], Awaitable[_Token | VaultReason]]
    ) -> "asyncio.Task[_Token | VaultReason]":
        """Return the running refresh task, or start one. It returns failures, so that no exception stays unread."""
        if self._refresh_task is None or self._refresh_task.done():
            self._refresh_task = asyncio.create_task(self._bounded(work))
        return self._refresh_task

    async def _bounded(self, work: Callable[[], Awaitable[_Token | VaultReason]]) -> _Token | VaultReason:
        outcome: _Token | VaultReason = VaultReason.TIMEOUT
        try:
            async with asyncio.timeout(_LOGIN_SECONDS):
                outcome = await work()
        except TimeoutError:
            pass
        if isinstance(outcome, _Token):
            self._token = outcome
        return outcome

    async def _log_in(self) -> _Token | VaultReason:
        login, since = self._login, self._clock()
        client = self._server.client(token=login.token, namespace=login.namespace)
        response = await self._send_with_retries(client, login.perform)
        if response.unavailable_reason is not None:
            return response.unavailable_reason
        if login.method == "token":
            if not response.is_success:
                return VaultReason.TOKEN_REVOKED
            ttl, is_renewable = response.data.get("ttl"), response.data.get("renewable")
        else:
            client_token = response.auth.get("client_token")
            if not response.is_success or not isinstance(client_token, str):
                return VaultReason.LOGIN_REFUSED
            client = self._server.client(token=client_token, namespace=login.namespace)
            ttl, is_renewable = response.auth.get("lease_duration"), response.auth.get("renewable")
        return _Token(client=client).with_ttl(_seconds(ttl), is_renewable=is_renewable is True, since=since)

    async def _validate_or_replace(self, token: _Token) -> _Token | VaultReason:
        """Return the token if Vault still accepts it, otherwise log in again."""
        if self._token is not None and self._token.client is not token.client:
            return self._token
        response = await self._send_with_retries(token.client, lambda vault: vault.auth.token.lookup_self())
        if response.unavailable_reason is not None:
            return response.unavailable_reason
        if response.is_success:
            return token
        self._token = None
        return await self._log_in()

    async def _refresh(self, token: _Token) -> _Token | VaultReason:
        """Renew the token, or log in again if a renewal is impossible or adds little. If both fail, try later."""
        since = self._clock()
        if token.is_renewable:
            response = await self._send_with_retries(
                token.client, lambda vault: vault.auth.token.renew_self()
            )
            ttl = _seconds(response.auth.get("lease_duration"))
            # Near its maximum TTL, a token gets less time with each renewal.
            if response.is_success and (ttl > token.ttl_seconds / 2 or self._login.method == "token"):
                return token.with_ttl(ttl, is_renewable=True, since=since)
        if self._login.method != "token":
            new_token = await self._log_in()
            if isinstance(new_token, _Token):
                return new_token
        return replace(token, refresh_at=since + (token.expires_at - since) / 3)


def _seconds(value: object) -> float:
    return float(value) if isinstance(value, int | float) and value > 0 else 0.0
