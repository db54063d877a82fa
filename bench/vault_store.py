"""Keys read and leased through the Vault adapter, beside plain hvac in as many threads on the same server.

python -m bench.vault_store               calls per second, their ratio, and the event loop's lag meanwhile

The server is BYOK_TEST_VAULT_ADDR's, or `bao` or `vault` on PATH in dev mode, on the same machine.
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

from app.core.api_key import ApiKey
from app.secret_store.encoding import length_prefixed
from app.secret_store.port import SecretRef, WrappedSecret
from app.secret_store.vault.store import VaultSecretStore
from tests.integration.secret_store.server import is_there, real_server
from tests.integration.secret_store.vaults import Prepared, prepared_vault

WORKERS: Final = 16
# Slower than this beside plain hvac and the adapter is in the way.
MIN_RATIO: Final = 0.8
MAX_LAG_SECONDS: Final = 0.05
TICK_SECONDS: Final = 0.005
KEY: Final = ApiKey("sk-ant-api03-" + 93 * "x" + "AA")


class Plain:
    """What the adapter does, by hand: hvac as it comes, one client for all threads."""

    def __init__(self, prepared: Prepared, ref: SecretRef, *, key: str = KEY.reveal()) -> None:
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


async def of_plain(call: Callable[[], str | None], calls: int) -> tuple[float, Accessors]:
    """Calls per second, and the accessors of tokens made."""
    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(WORKERS) as threads:
        began = time.perf_counter()
        made = await asyncio.gather(*(loop.run_in_executor(threads, call) for _ in range(calls)))
        return calls / (time.perf_counter() - began), [accessor for accessor in made if accessor]


async def of_adapter(
    call: Callable[[], Awaitable[object]], calls: int, callers: int, lags: list[float]
) -> tuple[float, Accessors]:
    """Likewise, of so many callers, each with one call after the other."""
    left, made = iter(range(calls)), list[object]()

    async def caller() -> None:
        made.extend([await call() for _ in left])

    watch = asyncio.create_task(lag(lags))
    began = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(callers)))
    rate = calls / (time.perf_counter() - began)
    watch.cancel()
    return rate, [wrapped.accessor for wrapped in made if isinstance(wrapped, WrappedSecret)]


async def lag(lags: list[float]) -> None:
    """How late the loop comes back, again and again."""
    while True:
        began = time.perf_counter()
        await asyncio.sleep(TICK_SECONDS)
        lags.append(time.perf_counter() - began - TICK_SECONDS)


async def compare(store: VaultSecretStore, prepared: Prepared, options: argparse.Namespace) -> dict[str, Any]:
    ref = SecretRef(organization_id="org_bench", credential_id=uuid4())
    await store.write(ref, KEY, intent_id=uuid4(), expected_version=0)
    plain = Plain(prepared, ref)
    works: dict[str, tuple[Callable[[], str | None], Callable[[], Awaitable[object]]]] = {
        "read": (plain.read, lambda: store.read(ref, 1)),
        "wrap_for_lease": (plain.wrap, lambda: store.wrap_for_lease(ref, 1, 300)),
    }
    result: dict[str, Any] = {}
    for name, (by_hand, through_us) in works.items():
        plains, ours, lags = list[float](), list[float](), list[float]()
        for turn in range(options.rounds):
            for is_plain in (turn % 2 == 0, turn % 2 == 1):
                rate, accessors = await (
                    of_plain(by_hand, options.calls)
                    if is_plain
                    else of_adapter(through_us, options.calls, options.callers, lags)
                )
                (plains if is_plain else ours).append(rate)
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
    parser = argparse.ArgumentParser(description="The Vault adapter beside plain hvac.")
    parser.add_argument("--calls", type=int, default=1000, help="calls of each kind in a round")
    parser.add_argument("--callers", type=int, default=64, help="callers of the adapter at a time")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    if not is_there():
        print("needs a Vault: set BYOK_TEST_VAULT_ADDR, or put bao or vault on PATH")
        return 2
    with real_server() as server:
        async with prepared_vault(server.address, server.token) as prepared, prepared.store() as store:
            result = await compare(store, prepared, options)
    print(json.dumps({"workers": WORKERS, "callers": options.callers, **result}, indent=2))
    in_bounds = all(
        kind["ratio"] >= MIN_RATIO and kind["loop_lag_p99_ms"] <= MAX_LAG_SECONDS * 1000
        for kind in result.values()
    )
    return 0 if in_bounds else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
