"""Runs the service with a Vault of which tests can read everything: audit file, paths, metadata and contents."""

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.secret_store.vault.roles import VaultRole
from app.secret_store.vault.session import VaultLogin
from tests.support.output_sinks import Sinks
from tests.support.processes.commands import private_directory
from tests.support.vault.fake import ROOT, FakeVault, serve
from tests.support.vault.prepared import PreparedVault, prepared_vault
from tests.support.vault.real_server import RealServer, dev_server, server_binary

# Without this line, OpenBao allows audit files only in its configuration. Vault ignores the line.
_CONFIGURATION = "unsafe_allow_api_audit_creation = true\n"


@dataclass(frozen=True, kw_only=True)
class AuditedVault:
    """A Vault after its setup, and its audit files."""

    prepared: PreparedVault
    logins: dict[VaultRole, VaultLogin]
    fake: FakeVault | None
    audit: Path | None  # as in production: values are hashed
    raw_audit: Path | None  # without hashes, as a control

    @property
    def settings(self) -> dict[str, str]:
        """The settings of a service in which each Vault role has a separate login."""
        found = {
            "VAULT__ADDRESS": self.prepared.address,
            "VAULT__KV_MOUNT": self.prepared.mounts.kv,
            "VAULT__TRANSIT_MOUNT": self.prepared.mounts.transit,
            "VAULT__AUTH_METHOD": "approle",
        }
        for role, login in self.logins.items():
            found[f"VAULT__ROLES__{role.upper()}__ROLE_ID"] = login.role_id
            found[f"VAULT__ROLES__{role.upper()}__SECRET_ID"] = login.secret_id
        return found

    async def seal_vault(self) -> None:
        if self.fake is None:
            await self.prepared.write("sys/seal")
        else:
            self.fake.script_response("", 503, {"errors": ["Vault is sealed"]})

    async def collect(self, sinks: Sinks) -> None:
        """Collect all contents of KV with their paths and metadata."""
        await self._collect_below(sinks, "")

    def collect_audit(self, sinks: Sinks) -> None:
        if self.audit is not None and self.raw_audit is not None:
            sinks.add("audit file", self.audit.read_bytes())
            sinks.add("raw audit file", self.raw_audit.read_bytes())

    async def _collect_below(self, sinks: Sinks, path: str) -> None:
        under = f"{self.prepared.mounts.kv}/metadata/{path}"
        listed = await self.prepared.as_root(lambda vault: vault.list(under), 404)
        for name in listed.data.get("keys", ()):
            if name.endswith("/"):
                await self._collect_below(sinks, f"{path}{name}")
                continue
            sinks.add("vault paths", f"{path}{name}")
            metadata = await self.prepared.read(f"{under}{name}")
            sinks.add("vault metadata", repr(dict(metadata.body)))
            for number, version in metadata.data["versions"].items():
                if not version["destroyed"]:
                    content: Any = await self.prepared.get(f"{path}{name}", int(number))
                    sinks.add("vault contents", repr(dict(content)))


@asynccontextmanager
async def audited_vault() -> AsyncIterator[AuditedVault]:
    """A real Vault with audit files if its binary is on PATH, else the fake."""
    async with AsyncExitStack() as stack:
        if server_binary() is None:
            served = await stack.enter_async_context(serve())
            prepared = await stack.enter_async_context(prepared_vault(served.address, ROOT))
            yield AuditedVault(
                prepared=prepared,
                logins=await prepared.logins(),
                fake=served.fake,
                audit=None,
                raw_audit=None,
            )
            return
        directory = stack.enter_context(private_directory())
        server = stack.enter_context(_audited(directory))
        prepared = await stack.enter_async_context(prepared_vault(server.address, server.token))
        files = {"audit": directory / "audit", "raw": directory / "raw"}
        for name, path in files.items():
            options = {"file_path": str(path), "log_raw": str(name == "raw").lower()}
            await prepared.write(f"sys/audit/{name}", type="file", options=options)
        yield AuditedVault(
            prepared=prepared,
            logins=await prepared.logins(),
            fake=None,
            audit=files["audit"],
            raw_audit=files["raw"],
        )


@contextmanager
def _audited(directory: Path) -> Iterator[RealServer]:
    configuration = directory / "vault.hcl"
    configuration.write_text(_CONFIGURATION)
    with dev_server(f"-config={configuration}") as server:
        yield server
