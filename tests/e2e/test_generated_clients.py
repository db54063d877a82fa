"""Clients that are generated from the OpenAPI document: the whole tutorial in TypeScript, and the programs of the guide.

TypeScript is compiled in strict mode. Every program then runs against the service.
"""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from app.auth.principal import Scope
from tests.support.clients.typescript import TOUR, TypeScript, prepare_typescript
from tests.support.documentation import ROOT, blocks
from tests.support.processes.service import Service, running
from tests.support.provider.fake_anthropic import Served, make_key

pytestmark = pytest.mark.slow

GUIDE = (ROOT / "docs/how-to/api-clients.md").read_text(encoding="utf-8")
TYPESCRIPT_USE = """
declare const process: { env: Record<string, string | undefined> };
const { url, token, key, organization, month } = JSON.parse(process.env["BYOK_JOB"] ?? "{}");
const client = connect(url, token);
const saved = await saveKey(client, organization, "From TypeScript", key, "guide-typescript");
const again = await saveKey(client, organization, "From TypeScript", key, "guide-typescript");
const refused = await saveKey(client, organization, "Not a key", "", "guide-refused").catch((error) => error.problem.code);
const notified = summary({
  type: "credential.invalid",
  timestamp: "2026-11-23T14:05:06Z",
  data: { organization_id: organization, credential_id: "c1", key_version: 2, reason: "invalid_key", checked_at: "2026-11-23T14:05:06Z" },
});
const listed = (await credentials(client, organization)).map((credential) => credential.label);
console.log(JSON.stringify({ again: saved.id === again.id, refused, notified, listed, cost: await costByModel(client, organization, month) }));
"""
PYTHON_USE = """
import json, os
job = json.loads(os.environ["BYOK_JOB"])
client = connect(job["url"], job["token"])
saved = save_key(client, job["organization"], "From Python", job["key"], "guide-python")
again = save_key(client, job["organization"], "From Python", job["key"], "guide-python")
try:
    refused = save_key(client, job["organization"], "Not a key", "", "guide-refused").id
except ByokError as error:
    refused = error.problem.code
listed = [credential.label for credential in credentials(client, job["organization"])]
cost = cost_by_model(client, job["organization"], job["month"])
print(json.dumps({"again": saved.id == again.id, "refused": refused, "listed": listed, "cost": cost}))
"""
# What is written in the tour, and a mistake that the compiler must find.
MISTAKES = (
    ('label: "Acme production", ', ""),
    ('api_key: keyOf("second")', 'api_kee: keyOf("second")'),
    ('mode: "byo"', 'mode: "byok"'),
    ("row.requests", "row.request"),
    ("page.has_more", "page.hasMore"),
)
GENERATE_PYTHON = "openapi-python-client generate"


@pytest.fixture(scope="module")
def typescript(tmp_path_factory: pytest.TempPathFactory) -> TypeScript:
    return prepare_typescript(tmp_path_factory.mktemp("typescript"))


@pytest.fixture(scope="module")
def errors(typescript: TypeScript) -> dict[str, list[str]]:
    """What the compiler complains about, by program: all in one run, because each one reads all types."""
    tour = TOUR.read_text(encoding="utf-8")
    programs = {"tour": tour, "guide": program_of("typescript") + TYPESCRIPT_USE}
    programs["message"] = programs["guide"].replace("message.data.reason", "message.data.why", 1)
    for number, (written, mistaken) in enumerate(MISTAKES):
        assert written in tour
        programs[f"mistake{number}"] = tour.replace(written, mistaken, 1)
    return typescript.compile(programs)


@pytest.fixture(scope="module")
async def service(provider: Served) -> AsyncIterator[Service]:
    async with running(PROVIDER__DEFAULT_BASE_URL=provider.base_url) as service:
        yield service


def program_of(language: str) -> str:
    """All blocks of the guide in this language, in order."""
    return "\n".join(block.text for block in blocks(GUIDE) if block.language == language)


async def job_of(service: Service, organization: str, **more: str) -> str:
    return json.dumps(
        {
            "url": service.url,
            "organization": organization,
            "token": await service.token(organization=organization),
            "key": make_key(),
            "month": "2026-11",
            **more,
        }
    )


class TestTour:
    async def test_compiles_in_strict_mode_and_runs(
        self, typescript: TypeScript, errors: dict[str, list[str]], service: Service
    ) -> None:
        organization = "org_tour"
        assert errors["tour"] == []
        job = {
            "url": service.url,
            "organization": organization,
            "admin": await service.token(organization=organization),
            "service": await service.token("service", "*", Scope.BILLING_WRITE),
        }

        found = await typescript.run("tour", {"BYOK_JOB": json.dumps(job)})

        assert found["organization"] == organization
        assert (found["accepted"], found["ready"], found["second"]) == ([1, 0], True, 1)
        assert found["report"] == {"requests": [1, 1], "rows": ["second", "first"], "lines": 3, "as_of": True}
        assert found["spend"] | {"percent": None} == {
            "percent": None,
            "state": "open",
            "status": 402,
            "limit": "Monthly budget",
        }
        assert found["bill"] == ["production", "99.00", "managed"]
        assert found["rotation"] == {
            "state": "activated",
            "version": 2,
            "safe": found["rotation"]["safe"],
            "actions": ["rotation.activated"],
        }

    def test_does_not_compile_with_a_mistake(self, errors: dict[str, list[str]]) -> None:
        assert [name for name in errors if name.startswith("mistake") and not errors[name]] == []


class TestGuide:
    async def test_typescript_works_as_written(
        self, typescript: TypeScript, errors: dict[str, list[str]], service: Service
    ) -> None:
        assert errors["guide"] == []

        found = await typescript.run("guide", {"BYOK_JOB": await job_of(service, "org_typescript")})

        assert found == {
            "again": True,
            "refused": "key_empty",
            "notified": "Key 2 of c1 is invalid: invalid_key",
            "listed": ["From TypeScript"],
            "cost": [],
        }

    def test_does_not_compile_with_an_unknown_field_of_a_message(self, errors: dict[str, list[str]]) -> None:
        assert any("TS2339" in error for error in errors["message"])

    async def test_python_works_as_written(self, tmp_path: Path, service: Service) -> None:
        self._generate_python(tmp_path)
        (tmp_path / "guide.py").write_text(program_of("python") + PYTHON_USE, encoding="utf-8")
        job = await job_of(service, "org_python")

        done = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "guide.py"],
            cwd=tmp_path,
            env={"PATH": os.environ["PATH"], "BYOK_JOB": job, "NO_PROXY": "*"},
            capture_output=True,
            text=True,
            check=False,
        )

        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout) == {
            "again": True,
            "refused": "key_empty",
            "listed": ["From Python"],
            "cost": [],
        }

    def _generate_python(self, home: Path) -> None:
        """Run the commands of the guide that make the package, with the generator of this environment."""
        (block,) = [it for it in blocks(GUIDE) if it.language == "sh" and GENERATE_PYTHON in it.text]
        configure, generate = block.text.splitlines()[1:]
        generate = generate.replace("openapi/openapi.json", str(ROOT / "openapi/openapi.json"))
        command = (
            f'"{sys.executable}" -m {generate.replace("openapi-python-client", "openapi_python_client", 1)}'
        )
        environment = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HOME": str(home)}
        done = subprocess.run(
            ["/bin/sh", "-ec", f"{configure}\n{command} --fail-on-warning"],
            cwd=home,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr


class TestRules:
    @pytest.mark.usefixtures("typescript")
    def test_are_missed_by_a_document_without_servers(self, tmp_path: Path) -> None:
        document = json.loads((ROOT / "openapi/openapi.json").read_text(encoding="utf-8"))
        del document["servers"]
        (tmp_path / "openapi.json").write_text(json.dumps(document), encoding="utf-8")

        done = subprocess.run(
            [str(ROOT / "scripts/check_openapi"), str(tmp_path / "openapi.json")],
            capture_output=True,
            text=True,
            check=False,
        )

        assert (done.returncode, "no-empty-servers" in done.stdout) == (1, True)
