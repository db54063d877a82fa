"""Measures reads and leases through the Vault adapter, compared with plain hvac in as many threads on the same server.

python -m bench.vault_store               print calls per second, their ratio and the event loop lag

The server is the one at BYOK_TEST_VAULT_ADDR, or `bao` or `vault` from PATH in dev mode, on the same machine.
"""

import argparse
import asyncio
import json
import statistics
import sys
import time
from base64 import b64decode, b64encode
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeAlias
from uuid import uuid4

import hvac

from app.core.keys.api_key import ApiKey
from app.secret_store.encoding import length_prefixed
from app.secret_store.port import SecretRef, WrappedSecret
from app.secret_store.vault.store import VaultSecretStore
from tests.support.vault.prepared import PreparedVault, prepared_vault
from tests.support.vault.real_server import is_real_vault_available, real_server

WORKERS: Final = 16
# Below this ratio, the adapter would slow down requests noticeably.
MIN_RATIO: Final = 0.8
MAX_LAG_SECONDS: Final = 0.05
TICK_SECONDS: Final = 0.005
KEY: Final = ApiKey("sk-ant-api03-" + 93 * "x" + "AA")


class PlainHvac:
    """Makes the same calls as the adapter, with unmodified hvac and one client for all threads."""

    def __init__(self, prepared: PreparedVault, ref: SecretRef, *, key: str = KEY.reveal()) -> None:
        self._plaintext = key
        self._vault = hvac.Client(url=prepared.address, token=prepared.root.token)
        self._vault.session.mount("http://", _pool())
        self._mounts = prepared.mounts
        self._path = f"orgs/{ref.organization_id}/creds/{ref.credential_id}"
        self._key = f"org.{ref.organization_id}.key"
        context = length_prefixed(ref.organization_id.encode(), ref.credential_id.bytes, b"provider key")
        self._context = b64encode(context).decode()

    def read(self) -> None:
        opened: Any = self._decrypt(None)
        assert b64decode(opened["data"]["plaintext"]).decode() == self._plaintext

    def wrap(self) -> str:
        wrapped: Any = self._decrypt("300s")
        return str(wrapped["wrap_info"]["accessor"])

    def _decrypt(self, wrap_ttl: str | None) -> object:
        found: Any = self._vault.secrets.kv.v2.read_secret_version(
            self._path, version=1, mount_point=self._mounts.kv, raise_on_deleted_version=False
        )
        return self._vault.write_data(
            f"{self._mounts.transit}/decrypt/{self._key}",
            data={"ciphertext": found["data"]["data"]["ct"], "context": self._context},
            wrap_ttl=wrap_ttl,
        )


def _pool() -> Any:
    from requests.adapters import HTTPAdapter  # noqa: PLC0415  # only the comparison uses requests

    return HTTPAdapter(pool_connections=1, pool_maxsize=WORKERS, pool_block=True)


Accessors: TypeAlias = list[str]


async def run_plain(call: Callable[[], str | None], calls: int) -> tuple[float, Accessors]:
    """Return the calls per second and the accessors of the created tokens."""
    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(WORKERS) as threads:
        started_at = time.perf_counter()
        results = await asyncio.gather(*(loop.run_in_executor(threads, call) for _ in range(calls)))
        return calls / (time.perf_counter() - started_at), [accessor for accessor in results if accessor]


async def run_adapter(
    call: Callable[[], Awaitable[object]], calls: int, callers: int, lags: list[float]
) -> tuple[float, Accessors]:
    """Like `run_plain`, with concurrent callers that each make one call after the other."""
    left, results = iter(range(calls)), list[object]()

    async def caller() -> None:
        results.extend([await call() for _ in left])

    watch = asyncio.create_task(lag(lags))
    started_at = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(callers)))
    rate = calls / (time.perf_counter() - started_at)
    watch.cancel()
    return rate, [wrapped.accessor for wrapped in results if isinstance(wrapped, WrappedSecret)]


async def lag(lags: list[float]) -> None:
    """Record the lag of the event loop until cancelled."""
    while True:
        started_at = time.perf_counter()
        await asyncio.sleep(TICK_SECONDS)
        lags.append(time.perf_counter() - started_at - TICK_SECONDS)


async def compare(
    store: VaultSecretStore, prepared: PreparedVault, options: argparse.Namespace
) -> dict[str, Any]:
    ref = SecretRef(organization_id="org_bench", credential_id=uuid4())
    await store.write(ref, KEY, intent_id=uuid4(), expected_version=0)
    plain = PlainHvac(prepared, ref)
    calls_by_name: dict[str, tuple[Callable[[], str | None], Callable[[], Awaitable[object]]]] = {
        "read": (plain.read, lambda: store.read(ref, 1)),
        "wrap_for_lease": (plain.wrap, lambda: store.wrap_for_lease(ref, 1, 300)),
    }
    result: dict[str, Any] = {}
    for name, (plain_call, adapter_call) in calls_by_name.items():
        plains, ours, lags = list[float](), list[float](), list[float]()
        for round_number in range(options.rounds):
            for uses_plain in (round_number % 2 == 0, round_number % 2 == 1):
                rate, accessors = await (
                    run_plain(plain_call, options.calls)
                    if uses_plain
                    else run_adapter(adapter_call, options.calls, options.callers, lags)
                )
                (plains if uses_plain else ours).append(rate)
                for accessor in accessors:  # a server with many unopened tokens gets slower
                    await store.revoke_wrapping(accessor)
        ratios = [our / plain for our, plain in zip(ours, plains, strict=True)]
        result[name] = {
            "plain_hvac_per_second": round(statistics.median(plains)),
            "adapter_per_second": round(statistics.median(ours)),
            "ratio": round(statistics.median(ratios), 2),
            "ratios": [round(ratio, 2) for ratio in ratios],
            "loop_lag_p99_ms": round(statistics.quantiles(lags, n=100)[98] * 1000, 1),
        }
    return result


async def main() -> int:
    parser = argparse.ArgumentParser(description="Compares the Vault adapter with plain hvac.")
    parser.add_argument("--calls", type=int, default=1000, help="calls of each kind per round")
    parser.add_argument("--callers", type=int, default=64, help="concurrent callers of the adapter")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    if not is_real_vault_available():
        print("needs a Vault: set BYOK_TEST_VAULT_ADDR, or put bao or vault on PATH")
        return 2
    with real_server() as server:
        async with prepared_vault(server.address, server.token) as prepared, prepared.store() as store:
            result = await compare(store, prepared, options)
    print(json.dumps({"workers": WORKERS, "callers": options.callers, **result}, indent=2))
    is_met = all(
        kind["ratio"] >= MIN_RATIO and kind["loop_lag_p99_ms"] <= MAX_LAG_SECONDS * 1000
        for kind in result.values()
    )
    return 0 if is_met else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
