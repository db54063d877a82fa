"""Logged in to Vault as one role: tokens fetched, renewed and replaced, and every call judged."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Literal, TypeAlias

import hvac

from app.secret_store.vault.client import Question, VaultServer
from app.secret_store.vault.responses import Answer, VaultReason, VaultUnavailable

LoginMethod: TypeAlias = Literal["token", "approle", "kubernetes", "jwt"]

# A token this close to its end is taken for expired; of short leases, the last third.
_MARGIN_SECONDS = 60.0
_RENEW_AFTER = 2 / 3
_NEVER = float("inf")
_LOGIN_SECONDS = 10.0
_PAUSES = (0.05, 0.1, 0.2, 0.4)


@dataclass(frozen=True, slots=True, kw_only=True)
class VaultLogin:
    """Who to be, and where. Roles with the same log-in share one token."""

    method: LoginMethod
    namespace: str | None = None
    token: str = field(default="", repr=False)
    role_id: str = ""
    secret_id: str = field(default="", repr=False)
    role: str = ""
    jwt_file: Path | None = None

    def perform(self, vault: hvac.Client) -> object:
        """Log in. A given token is only looked up, which tells its lease."""
        if self.method == "token":
            return vault.auth.token.lookup_self()
        if self.method == "approle":
            return vault.auth.approle.login(self.role_id, self.secret_id, use_token=False)
        assert self.jwt_file is not None
        try:
            # Read at every log-in: the file is replaced before its token expires.
            jwt = self.jwt_file.read_text(encoding="ascii").strip()
        except (OSError, ValueError):
            return Answer(0, failure=VaultReason.LOGIN_REFUSED)
        if self.method == "kubernetes":
            return vault.auth.kubernetes.login(self.role, jwt, use_token=False)
        return vault.auth.jwt.jwt_login(self.role, jwt, use_token=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Grant:
    """A token in force. Without a lease it lasts for ever, as a root token does."""

    client: hvac.Client = field(repr=False)
    lease_seconds: float = 0
    is_renewable: bool = False
    expires_at: float = _NEVER
    refresh_at: float = _NEVER

    def leased(self, seconds: float, *, is_renewable: bool, since: float) -> "_Grant":
        """The same token with a new lease, counted from before it was asked for."""
        if not seconds:
            return self
        return replace(
            self,
            lease_seconds=seconds,
            is_renewable=is_renewable,
            expires_at=since + seconds,
            refresh_at=since + seconds * _RENEW_AFTER,
        )

    def is_spent(self, now: float) -> bool:
        return now > self.expires_at - min(_MARGIN_SECONDS, self.lease_seconds / 3)


class VaultSession:
    """One log-in. Calls made at the same time share the log-ins and renewals they need.

    Args:
        clock: seconds that only ever grow.
    """

    def __init__(
        self, server: VaultServer, login: VaultLogin, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._server = server
        self._login = login
        self._clock = clock
        self._grant: _Grant | None = None
        self._flight: asyncio.Task[_Grant | VaultReason] | None = None

    async def call(self, question: Question) -> Answer:
        """The answer to a question put with a token in force: a success, or 400, 403 or 404 on the matter.

        Raises:
            VaultUnavailable
        """
        grant = await self._in_force()
        answer = await self._ask(grant, question)
        if answer.is_denied:
            # Either the policy says no, or the token is dead and a new one may do.
            alive = await self._join(partial(self._recheck, grant))
            if alive is not grant:
                answer = await self._ask(alive, question)
        return answer

    async def close(self) -> None:
        if self._flight is not None:
            self._flight.cancel()
            await asyncio.wait([self._flight])

    async def _in_force(self) -> _Grant:
        grant, now = self._grant, self._clock()
        if grant is None or grant.is_spent(now):
            return await self._join(self._log_in)
        if now > grant.refresh_at:
            self._fly(partial(self._refresh, grant))  # nobody waits: the token still serves
        return grant

    async def _ask(self, grant: _Grant, question: Question) -> Answer:
        answer = await self._ask_patiently(grant.client, question)
        if answer.trouble is not None:
            raise VaultUnavailable(answer.trouble)
        return answer

    async def _ask_patiently(self, client: hvac.Client, question: Question) -> Answer:
        answer = await self._server.ask(client, question)
        for pause in _PAUSES:
            if not answer.passes_soon:
                break
            await asyncio.sleep(pause)
            answer = await self._server.ask(client, question)
        return answer

    async def _join(self, work: Callable[[], Awaitable[_Grant | VaultReason]]) -> _Grant:
        # Whoever is cancelled leaves the flight to the others.
        outcome = await asyncio.shield(self._fly(work))
        if isinstance(outcome, VaultReason):
            raise VaultUnavailable(outcome)
        return outcome

    def _fly(
        self, work: Callable[[], Awaitable[_Grant | VaultReason]]
    ) -> "asyncio.Task[_Grant | VaultReason]":
        """The one flight: the one under way, else a new one. It ends with a value, so none goes unheard."""
        if self._flight is None or self._flight.done():
            self._flight = asyncio.create_task(self._bounded(work))
        return self._flight

    async def _bounded(self, work: Callable[[], Awaitable[_Grant | VaultReason]]) -> _Grant | VaultReason:
        outcome: _Grant | VaultReason = VaultReason.TIMEOUT
        try:
            async with asyncio.timeout(_LOGIN_SECONDS):
                outcome = await work()
        except TimeoutError:
            pass
        if isinstance(outcome, _Grant):
            self._grant = outcome
        return outcome

    async def _log_in(self) -> _Grant | VaultReason:
        login, since = self._login, self._clock()
        client = self._server.client(token=login.token, namespace=login.namespace)
        answer = await self._ask_patiently(client, login.perform)
        if answer.trouble is not None:
            return answer.trouble
        if login.method == "token":
            if not answer.is_success:
                return VaultReason.TOKEN_REVOKED
            lease, is_renewable = answer.data.get("ttl"), answer.data.get("renewable")
        else:
            token = answer.auth.get("client_token")
            if not answer.is_success or not isinstance(token, str):
                return VaultReason.LOGIN_REFUSED
            client = self._server.client(token=token, namespace=login.namespace)
            lease, is_renewable = answer.auth.get("lease_duration"), answer.auth.get("renewable")
        return _Grant(client=client).leased(_seconds(lease), is_renewable=is_renewable is True, since=since)

    async def _recheck(self, grant: _Grant) -> _Grant | VaultReason:
        """The same grant if Vault still knows its token, else a new one."""
        if self._grant is not None and self._grant.client is not grant.client:
            return self._grant
        answer = await self._ask_patiently(grant.client, lambda vault: vault.auth.token.lookup_self())
        if answer.trouble is not None:
            return answer.trouble
        if answer.is_success:
            return grant
        self._grant = None
        return await self._log_in()

    async def _refresh(self, grant: _Grant) -> _Grant | VaultReason:
        """Renewed, or logged in anew where that is impossible or no longer worth it; else put off."""
        since = self._clock()
        if grant.is_renewable:
            answer = await self._ask_patiently(grant.client, lambda vault: vault.auth.token.renew_self())
            lease = _seconds(answer.auth.get("lease_duration"))
            # At its greatest age a token gets less and less.
            if answer.is_success and (lease > grant.lease_seconds / 2 or self._login.method == "token"):
                return grant.leased(lease, is_renewable=True, since=since)
        if self._login.method != "token":
            fresh = await self._log_in()
            if isinstance(fresh, _Grant):
                return fresh
        return replace(grant, refresh_at=since + (grant.expires_at - since) / 3)


def _seconds(value: object) -> float:
    return float(value) if isinstance(value, int | float) and value > 0 else 0.0
