"""A client that is generated from the OpenAPI document, used with the running service."""

import importlib
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any
from uuid import UUID

import pytest

from tests.support.openapi import openapi_document
from tests.support.processes.service import Service, running
from tests.support.provider.fake_anthropic import FakeAnthropic, Served, make_key

PACKAGE = "generated_byok_client"
ORGANIZATION = "org_acme"

# Imports a module of the generated package by its path below the package.
Generated = Callable[[str], Any]


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Generated]:
    home = tmp_path_factory.mktemp("generated")
    document, config = home / "openapi.json", home / "config.yaml"
    document.write_text(json.dumps(openapi_document()), encoding="utf-8")
    # The generator does not support NDJSON. A single JSON event is a valid NDJSON body.
    overrides = "content_type_overrides:\n  application/x-ndjson: application/json\n"
    config.write_text(f"post_hooks: []\n{overrides}", encoding="utf-8")

    completed = subprocess.run(
        [
            *(sys.executable, "-m", "openapi_python_client", "generate", "--fail-on-warning"),
            *("--meta", "none", "--path", str(document), "--config", str(config)),
            *("--output-path", str(home / PACKAGE)),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert completed.returncode == 0, completed.stdout + completed.stderr

    def module(name: str) -> ModuleType:
        return importlib.import_module(f"{PACKAGE}.{name}")

    sys.path.insert(0, str(home))
    yield module
    sys.path.remove(str(home))
    for name in [name for name in sys.modules if name.partition(".")[0] == PACKAGE]:
        del sys.modules[name]


@pytest.fixture(scope="module")
async def service(provider: Served) -> AsyncIterator[Service]:
    async with running(PROVIDER__DEFAULT_BASE_URL=provider.base_url) as service:
        yield service


@pytest.fixture(scope="module")
async def client(generated: Generated, service: Service) -> AsyncIterator[Any]:
    token = await service.token(organization=ORGANIZATION)
    client = generated("client").AuthenticatedClient(
        base_url=str(service.http.base_url),
        token=token,
        raise_on_unexpected_status=True,
        httpx_args={"trust_env": False},
    )
    async with client:
        yield client


@pytest.fixture
async def create(generated: Generated, client: Any) -> Callable[..., Any]:
    async def create(key: str, label: str = "Acme production", **options: Any) -> Any:
        body = generated("models").CredentialCreate(label=label, api_key=key)
        operation = generated("api.credentials.create_credential")
        return await operation.asyncio_detailed(ORGANIZATION, client=client, body=body, **options)

    return create


class TestDocument:
    def test_every_operation_has_a_function(self, generated: Generated) -> None:
        root = Path(generated("api").__file__).parent

        functions = {path.stem for path in root.glob("*/*.py")} - {"__init__"}

        assert len(functions) == sum(len(item) for item in openapi_document()["paths"].values())


class TestCredentials:
    async def test_create_returns_a_typed_credential_with_its_validation_result(
        self, generated: Generated, create: Callable[..., Any]
    ) -> None:
        models, key = generated("models"), make_key()

        credential = (await create(key)).parsed

        assert isinstance(credential, models.Credential)
        assert isinstance(credential.id, UUID)
        assert credential.state is models.CredentialState.ACTIVE
        assert credential.key_hint == f"{key[:16]}...{key[-4:]}"
        assert credential.validation.status is models.ValidationStatus.VALID
        assert credential.validation.reason is models.Reason.OK
        assert isinstance(credential.validation.latest.checked_at, datetime)
        assert credential.created_at.tzinfo is not None
        assert credential.created_at <= datetime.now(UTC)
        assert credential.previous is None

    async def test_create_with_prefer_returns_a_pending_validation(
        self, generated: Generated, create: Callable[..., Any]
    ) -> None:
        models = generated("models")

        response = await create(make_key(), prefer="respond-async")

        assert response.headers["Preference-Applied"] == "respond-async"
        assert response.parsed.validation.status is models.ValidationStatus.PENDING
        assert response.parsed.validation.reason is None

    async def test_get_returns_the_created_credential(
        self, generated: Generated, client: Any, create: Callable[..., Any]
    ) -> None:
        created = (await create(make_key())).parsed

        read = await generated("api.credentials.get_credential").asyncio(
            ORGANIZATION, created.id, client=client
        )

        assert read.to_dict() == created.to_dict()

    async def test_list_follows_next_page(
        self, generated: Generated, client: Any, create: Callable[..., Any]
    ) -> None:
        models, list_credentials = generated("models"), generated("api.credentials.list_credentials")
        older, newer = (await create(make_key())).parsed, (await create(make_key())).parsed

        first = await list_credentials.asyncio(
            ORGANIZATION, client=client, limit=1, state=models.CredentialState.ACTIVE
        )
        second = await list_credentials.asyncio(ORGANIZATION, client=client, limit=1, page=first.next_page)

        assert isinstance(first, models.CredentialPage)
        assert first.has_more
        assert [first.data[0].id, second.data[0].id] == [newer.id, older.id]

    async def test_patch_changes_the_label(
        self, generated: Generated, client: Any, create: Callable[..., Any]
    ) -> None:
        created, update = await create(make_key()), generated("models").CredentialUpdate(label="Acme, EU")

        changed = await generated("api.credentials.update_credential").asyncio(
            ORGANIZATION, created.parsed.id, client=client, body=update, if_match=created.headers["ETag"]
        )

        assert changed.label == "Acme, EU"

    async def test_update_without_fields_sends_an_empty_object(self, generated: Generated) -> None:
        assert generated("models").CredentialUpdate().to_dict() == {}

    async def test_versions_are_typed(
        self, generated: Generated, client: Any, create: Callable[..., Any]
    ) -> None:
        models, created = generated("models"), (await create(make_key())).parsed

        page = await generated("api.credentials.list_credential_versions").asyncio(
            ORGANIZATION, created.id, client=client
        )

        assert [version.state for version in page.data] == [models.CredentialVersionState.ACTIVE]


class TestValidations:
    async def test_validation_and_list_are_typed(
        self,
        generated: Generated,
        client: Any,
        create: Callable[..., Any],
        fake_anthropic: FakeAnthropic,
    ) -> None:
        models, key = generated("models"), make_key()
        created = (await create(key)).parsed
        fake_anthropic.behave(key, "revoked")

        validation = await generated("api.validation.validate_credential").asyncio(
            ORGANIZATION, created.id, client=client
        )
        page = await generated("api.validation.list_validations").asyncio(
            ORGANIZATION, created.id, client=client
        )

        assert isinstance(validation, models.Validation)
        assert validation.status is models.ValidationStatus.INVALID
        assert validation.trigger is models.Trigger.REQUEST
        assert [validation.trigger for validation in page.data] == [
            models.Trigger.REQUEST,
            models.Trigger.SAVE,
        ]


class TestAudit:
    async def test_events_are_typed_and_can_be_filtered(
        self, generated: Generated, client: Any, create: Callable[..., Any]
    ) -> None:
        models, created = generated("models"), (await create(make_key())).parsed

        page = await generated("api.audit.list_audit_events").asyncio(
            ORGANIZATION,
            client=client,
            credential_id=created.id,
            action=models.AuditAction.CREDENTIAL_CREATED,
            starting_at=created.created_at,
        )

        assert [event.credential_id for event in page.data] == [created.id]
        assert page.data[0].details["key_hint"] == created.key_hint


class TestProblems:
    async def test_invalid_key_names_the_field(
        self, generated: Generated, create: Callable[..., Any]
    ) -> None:
        problem = (await create("sk-ant-admin01-not-for-this")).parsed

        assert isinstance(problem, generated("models").Problem)
        assert (problem.status, problem.code) == (422, "admin_key")
        assert [(error.field, error.code) for error in problem.errors] == [("api_key", "admin_key")]

    async def test_duplicate_key_names_the_credential_that_has_it(
        self, generated: Generated, create: Callable[..., Any]
    ) -> None:
        key = make_key()
        first = (await create(key)).parsed

        problem = (await create(key)).parsed

        assert isinstance(problem, generated("models").Problem)
        assert (problem.status, problem.credential_id) == (409, first.id)

    async def test_request_without_a_token_returns_a_problem(
        self, generated: Generated, service: Service
    ) -> None:
        client = generated("client").Client(
            base_url=str(service.http.base_url), httpx_args={"trust_env": False}
        )
        async with client:
            problem = await generated("api.credentials.list_credentials").asyncio(ORGANIZATION, client=client)

        assert isinstance(problem, generated("models").Problem)
        assert problem.code == "unauthenticated"
        assert isinstance(problem.errors, generated("types").Unset)


class TestHealth:
    async def test_readiness_is_typed(self, generated: Generated, client: Any) -> None:
        models = generated("models")

        readiness = await generated("api.health.get_readiness").asyncio(client=client)

        assert readiness.status is models.ReadinessStatus.READY
        assert {each.value for each in readiness.dependencies.additional_properties.values()} == {"up"}

    async def test_metrics_are_text(self, generated: Generated, client: Any) -> None:
        response = await generated("api.health.get_metrics").asyncio_detailed(client=client)

        assert "byok_http_requests_total" in response.parsed
