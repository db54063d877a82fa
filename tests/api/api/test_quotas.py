"""What one organization may have or use at a time. Beyond it 429 or 409; other organizations are not affected."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from datetime import timedelta

import httpx
import pytest

from app.api.csv_export import ExportQueue
from app.auth.principal import Scope
from app.composition.factory import Quotas
from app.core.services import Services
from app.database.engine import Database
from app.database.statements import _compile_times, _CompileTime
from app.database.unit_of_work import UnitsOfWork
from app.usage.listing_repository import _page
from app.usage_reports.day_repository import day_statement
from app.usage_reports.report_statement import report_statement
from app.usage_reports.service import ReportService
from tests.support.fakes import FakeSecretStore
from tests.support.fault_injection import ApprovingProber
from tests.support.polling import resolved, until
from tests.support.requests.rotation import post_rotation, status_and_code
from tests.support.requests.spend_limits import MONTHLY
from tests.support.service_builder import assemble, client_of
from tests.support.tenant import MakeTenant, MakeToken, Tenant

QUOTAS = Quotas(
    reads=4,
    reads_per_organization=2,
    exports_per_organization=1,
    queue_timeout=timedelta(0),
    credentials=2,
    spend_limits=1,
    webhook_endpoints=1,
    price_overrides=1,
    usage_mode_changes=2,
    rotations=1,
    idempotency_keys=3,
)
CHANGES_PER_MINUTE = 20
REPORT = {"starting_at": "2026-01-01T00:00:00Z", "bucket_width": "1d"}
CSV = {"Accept": "text/csv"}
LIMITED = (429, "concurrency_limited")


@dataclass(frozen=True, kw_only=True)
class TwoTenants:
    """An organization that uses up its quotas, and another one."""

    services: Services
    greedy: Tenant
    other: Tenant
    service_token: str


@pytest.fixture
async def two(
    services: Services, database: Database, make_tenant: MakeTenant, make_token: MakeToken
) -> AsyncIterator[TwoTenants]:
    assembled = assemble(
        services,
        units=UnitsOfWork(database),
        store=FakeSecretStore(),
        prober=ApprovingProber(),
        quotas=QUOTAS,
        changes_per_minute=CHANGES_PER_MINUTE,
    )
    async with client_of(assembled) as http:
        yield TwoTenants(
            services=assembled,
            greedy=replace(make_tenant(), http=http),
            other=replace(make_tenant(), http=http),
            service_token=make_token("service", scopes=[Scope.BILLING_WRITE]),
        )


def preview(tenant: Tenant) -> Awaitable[httpx.Response]:
    return tenant.post(f"{tenant.path}/usage-mode/preview", json={"mode": "managed"})


READS: dict[str, Callable[[Tenant], Awaitable[httpx.Response]]] = {
    "report": lambda tenant: tenant.get(f"{tenant.path}/usage-report", params=REPORT),
    "report as CSV": lambda tenant: tenant.get(f"{tenant.path}/usage-report", params=REPORT, headers=CSV),
    "usage events": lambda tenant: tenant.get(f"{tenant.path}/usage-events"),
    "usage events as CSV": lambda tenant: tenant.get(f"{tenant.path}/usage-events", headers=CSV),
    "statements": lambda tenant: tenant.get(f"{tenant.path}/billing-statements"),
    "preview": preview,
    "audit log": lambda tenant: tenant.get(f"{tenant.path}/audit-events"),
}


class TestReads:
    @pytest.mark.parametrize("kind", READS)
    async def test_beyond_the_quota_are_rejected_with_retry_after(self, kind: str, two: TwoTenants) -> None:
        admission = two.services[ReportService]._admission
        async with AsyncExitStack() as running:
            for _ in range(QUOTAS.reads_per_organization):
                await running.enter_async_context(admission.slot(two.greedy.organization))

            rejected = await READS[kind](two.greedy)
            accepted = await READS[kind](two.other)

        assert status_and_code(rejected) == LIMITED
        assert rejected.headers["Retry-After"] == "2"
        assert accepted.status_code == 200
        assert (await READS[kind](two.greedy)).status_code == 200

    @pytest.mark.parametrize("path", ["usage-report", "usage-events"])
    async def test_that_wait_for_their_statement_hold_no_slot(
        self, path: str, two: TwoTenants, make_tenant: MakeTenant, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("app.core.admission._PREPARATION_SECONDS", 60)
        for statements in (report_statement, _page, day_statement):
            statements._kept.clear()
        known = REPORT if path == "usage-report" else {}
        new = {**known, "prompt_id[]": "prompt-1"}
        assert (await two.other.get(f"{two.other.path}/{path}", params=known)).status_code == 200
        others = [replace(make_tenant(), http=two.other.http) for _ in range(QUOTAS.reads)]
        line = _compile_times.setdefault(asyncio.get_running_loop(), _CompileTime()).line

        async with line:
            waiting = [asyncio.create_task(it.get(f"{it.path}/{path}", params=new)) for it in others]
            await until(lambda: resolved(len(line._waiters or ())), lambda found: found == len(others))
            read = await two.other.get(f"{two.other.path}/{path}", params=known)

        assert read.status_code == 200
        assert {it.status_code for it in await asyncio.gather(*waiting)} == {200}

    async def test_readiness_needs_no_slot(self, two: TwoTenants) -> None:
        admission = two.services[ReportService]._admission
        async with AsyncExitStack() as running:
            for _ in range(QUOTAS.reads_per_organization):
                await running.enter_async_context(admission.slot(two.greedy.organization))

            assert (await two.greedy.get(f"{two.greedy.path}/readiness")).status_code == 200


class TestExports:
    @pytest.mark.parametrize("kind", ["report as CSV", "usage events as CSV"])
    async def test_beyond_the_quota_are_rejected(self, kind: str, two: TwoTenants) -> None:
        async with two.services[ExportQueue].slot(two.greedy.organization):
            rejected = await READS[kind](two.greedy)
            accepted = await READS[kind](two.other)

        assert status_and_code(rejected) == LIMITED
        assert accepted.status_code == 200
        assert (await READS[kind](two.greedy)).status_code == 200


class TestCaps:
    async def test_credentials_are_capped_whatever_the_concurrency(self, two: TwoTenants) -> None:
        responses = await asyncio.gather(*(two.greedy.create() for _ in range(5)))

        assert sorted(response.status_code for response in responses) == [201, 201, 409, 409, 409]
        assert {it.json()["code"] for it in responses if it.status_code == 409} == {"too_many_credentials"}
        assert (await two.other.create()).status_code == 201

    async def test_deleted_credentials_do_not_count(self, two: TwoTenants) -> None:
        first = await two.greedy.created()
        await two.greedy.created()

        await two.greedy.request("DELETE", f"{two.greedy.credentials}/{first['id']}")

        assert (await two.greedy.create()).status_code == 201

    async def test_spend_limits_are_capped(self, two: TwoTenants) -> None:
        responses = [await two.greedy.post(f"{two.greedy.path}/spend-limits", json=MONTHLY) for _ in range(2)]

        assert [it.status_code for it in responses] == [201, 409]
        assert responses[1].json()["code"] == "too_many_limits"

    async def test_webhook_endpoints_are_capped(self, two: TwoTenants) -> None:
        body = {"url": "https://hooks.example.com/byok"}
        responses = [
            await two.greedy.post(f"{two.greedy.path}/webhook-endpoints", json=body) for _ in range(2)
        ]

        assert [it.status_code for it in responses] == [201, 409]

    async def test_models_with_a_price_override_are_capped(self, two: TwoTenants) -> None:
        overrides = [
            {"model": model, "usd_per_million_tokens": {"uncached_input": "3", "output": "9"}}
            for model in ("claude-one", "claude-two")
        ]
        service = replace(two.greedy, token=two.service_token)
        url = f"{service.path}/price-overrides"

        accepted = await service.request("PUT", url, json={"overrides": overrides[:1]})
        rejected = await service.request("PUT", url, json={"overrides": overrides})

        assert accepted.status_code == 200
        assert status_and_code(rejected) == (422, "validation_failed")
        assert rejected.json()["errors"][0]["code"] == "too_long"

    async def test_usage_mode_changes_are_capped(self, two: TwoTenants) -> None:
        url, modes = f"{two.greedy.path}/usage-mode", ("byo", "managed", "byo")

        responses = [await two.greedy.request("PUT", url, json={"mode": mode}) for mode in modes]

        assert [it.status_code for it in responses] == [200, 200, 429]
        assert responses[-1].json()["code"] == "rate_limited"
        assert int(responses[-1].headers["Retry-After"]) > 0
        # A request for the active mode changes nothing.
        assert (await two.greedy.request("PUT", url, json={"mode": "managed"})).status_code == 200

    async def test_rotations_are_capped(self, two: TwoTenants) -> None:
        created = await two.greedy.create()
        path = created.headers["Location"]

        responses = [await post_rotation(two.greedy, path) for _ in range(2)]

        assert [it.status_code for it in responses] == [201, 429]
        assert responses[-1].json()["code"] == "rate_limited"
        assert int(responses[-1].headers["Retry-After"]) > 0
        other = await two.other.create()
        assert (await post_rotation(two.other, other.headers["Location"])).status_code == 201

    async def test_idempotency_keys_are_capped(self, two: TwoTenants) -> None:
        responses = [
            await two.greedy.post(
                f"{two.greedy.path}/spend-limits", json=MONTHLY, headers={"Idempotency-Key": f"key {number}"}
            )
            for number in range(QUOTAS.idempotency_keys + 1)
        ]

        assert [it.status_code for it in responses] == [201, 409, 409, 429]
        assert responses[-1].json()["code"] == "rate_limited"
        assert int(responses[-1].headers["Retry-After"]) > 0


class TestChanges:
    async def test_every_change_counts_and_reads_do_not(self, two: TwoTenants) -> None:
        unknown = f"{two.greedy.credentials}/0199a2b4-c6d8-7e01-a2b3-c4d5e6f70819"
        for _ in range(CHANGES_PER_MINUTE):
            await two.greedy.request("DELETE", unknown)

        rejected = [
            await two.greedy.request("DELETE", unknown),
            await two.greedy.patch(unknown, json={"label": "x"}),
            await two.greedy.request("PUT", f"{two.greedy.path}/usage-mode", json={"mode": "managed"}),
            await two.greedy.create(),
        ]

        # The minute may end during the test.
        assert {status_and_code(it) for it in rejected} <= {(429, "rate_limited"), (404, "not_found")}
        assert (429, "rate_limited") in {status_and_code(it) for it in rejected}
        assert (await two.greedy.get(two.greedy.credentials)).status_code == 200
        assert (await preview(two.greedy)).status_code == 200
        assert (await two.other.create()).status_code == 201
