"""Attacks of one organization on a running service, in their own process: `python -m ...attacks NAME URL ORG TOKEN`.

Each repeats its requests until the process is stopped, and writes the statuses of the responses as one line of JSON.
"""

import asyncio
import json
import os
import signal
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress

import httpx

REPORTS_AT_ONCE = 12
EXPORTS_AT_ONCE = 60
UNKNOWN_FIELDS = 95_000
MEBIBYTE = 1024 * 1024
DIMENSIONS = (
    *("model", "usage_mode", "endpoint_id", "feature", "session_id", "prompt_id"),
    *("credential_id", "key_version", "outcome"),
)

Statuses = Counter[str]


class Attacker:
    """The client of one organization."""

    def __init__(self, http: httpx.AsyncClient, organization: str) -> None:
        self._http = http
        self._path = f"/v1/organizations/{organization}"
        self.statuses: Statuses = Counter()

    async def send(self, method: str, path: str, **options: object) -> None:
        try:
            response = await self._http.request(method, f"{self._path}/{path}", **options)  # type: ignore[arg-type]
            self.statuses[str(response.status_code)] += 1
        except httpx.HTTPError as error:
            self.statuses[type(error).__name__] += 1


async def many_fields(attacker: Attacker) -> None:
    """Bodies whose validation finds very many errors."""
    fields = json.dumps({f"{number}": 1 for number in range(UNKNOWN_FIELDS)}, separators=(",", ":"))
    assert len(fields) < MEBIBYTE  # a larger body would be rejected unread
    thresholds = '{"name":"x","amount":"1","period":"day","thresholds":[%s0]}' % (
        "0," * (MEBIBYTE // 2 - 100)
    )
    headers = {"Content-Type": "application/json"}
    await attacker.send("POST", "usage-mode/preview", content=fields, headers=headers)
    await attacker.send("POST", "spend-limits", content=thresholds, headers=headers)


async def odd_batches(attacker: Attacker) -> None:
    """Batches of usage events that are slow to decode."""
    body = b'{"events":["\\ud800"%s]}' % (b",1" * (8 * MEBIBYTE - 100))
    await attacker.send("POST", "usage-events", content=body, headers={"Content-Type": "application/json"})


async def reports(attacker: Attacker) -> None:
    """Many wide reports and exports at the same time."""
    query = {"starting_at": "2026-01-01T00:00:00Z", "bucket_width": "1d", "group_by[]": DIMENSIONS}
    await asyncio.gather(
        *(attacker.send("GET", "usage-report", params=query) for _ in range(REPORTS_AT_ONCE)),
        *(
            attacker.send("GET", "usage-events", headers={"Accept": "text/csv"})
            for _ in range(EXPORTS_AT_ONCE)
        ),
    )


async def validations(attacker: Attacker) -> None:
    """Validations on endpoints that respond badly. The organization's credentials exist already."""
    await attacker.send("GET", "provider-credentials", params={"limit": 100})
    await asyncio.sleep(0.5)


ATTACKS: dict[str, Callable[[Attacker], Awaitable[None]]] = {
    "many fields": many_fields,
    "odd batches": odd_batches,
    "reports": reports,
    "informational responses": validations,
    "hanging hosts": validations,
}


async def _main(name: str, url: str, organization: str, token: str) -> None:
    os.nice(19)  # a real attacker would not use this machine's processors to read the responses
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with httpx.AsyncClient(
        base_url=url,
        headers={"Authorization": f"Bearer {token}"},
        timeout=120,
        trust_env=False,
        limits=httpx.Limits(max_connections=None),
    ) as http:
        attacker = Attacker(http, organization)

        async def repeat() -> None:
            while True:
                await ATTACKS[name](attacker)

        repeating = asyncio.create_task(repeat())
        await stop.wait()
        repeating.cancel()
        with suppress(asyncio.CancelledError):
            await repeating
    print(json.dumps(attacker.statuses))


if __name__ == "__main__":
    asyncio.run(_main(*sys.argv[1:]))
