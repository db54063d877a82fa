"""LiteLLM's proxy as a peer: one worker without a database, with a master key.

It is not part of the development environment. BYOK_BENCH_LITELLM names the program, in a virtual environment that has
`litellm[proxy]` from PyPI.
"""

import os
import secrets
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.measures import progress
from bench.relay.peers import MODEL
from bench.relay.setup import Certificate, Peer, served
from tests.support.processes.service import free_port

PROGRAM = "BYOK_BENCH_LITELLM"
_START_SECONDS = 300  # importing it takes minutes on a busy machine
_CONFIG = """
model_list:
  - model_name: {model}
    litellm_params: {{model: anthropic/{model}, api_base: "{url}", api_key: key}}
general_settings: {{master_key: {key}}}
litellm_settings: {{telemetry: false}}
"""


@asynccontextmanager
async def litellm(url: str, tls: Certificate) -> AsyncIterator[Peer | None]:
    """Run the proxy in front of a provider. None, with a line of output, where it is not installed."""
    program = os.environ.get(PROGRAM)
    if program is None:
        progress(f"LiteLLM is not compared: {PROGRAM} does not name its program")
        yield None
        return
    port, key = free_port(), f"sk-{secrets.token_hex(16)}"
    with TemporaryDirectory() as name:
        config = Path(name) / "config.yaml"
        config.write_text(_CONFIG.format(model=MODEL, url=url, key=key))
        command = (program, "--config", str(config), "--host", "127.0.0.1", "--port", str(port))
        environment = {"PATH": os.environ["PATH"], "HOME": name, "SSL_CERT_FILE": str(tls.ca_file)}
        environment |= {"LITELLM_LOG": "ERROR", "NO_PROXY": "*", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
        async with served(
            "LiteLLM",
            port,
            *(*command, "--num_workers", "1"),
            environment=environment,
            seconds=_START_SECONDS,
            output=subprocess.DEVNULL,
        ) as peer:
            yield replace(peer, token=key)
