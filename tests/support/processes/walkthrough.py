"""Follows a page of the documentation: runs its `shell` blocks in terminals and compares their outputs."""

import signal
import socket
from contextlib import ExitStack
from pathlib import Path

from tests.support.documentation import ROOT, Step, steps
from tests.support.processes.commands import environment, private_directory
from tests.support.processes.service import postmaster_on, until
from tests.support.processes.terminal import Terminal, terminal

TOOLS = ("bash", "curl", "make")


def variables(**settings: str) -> dict[str, str]:
    """The environment of a terminal: without variables of the make that may have started the tests."""
    inherited = environment({"PORT": free_port(), **settings})
    return {
        name: value for name, value in inherited.items() if name not in {"MAKEFLAGS", "MAKELEVEL", "MFLAGS"}
    } | {"FAKE_PORT": free_port()}


def free_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return str(listener.getsockname()[1])


def starts_server(step: Step, later: list[Step]) -> bool:
    """Whether the block's last command is a server: other terminals follow, and this one is never used again."""
    return bool(later) and all(other.terminal != step.terminal for other in later)


async def follow(page: str, checkout: Path, variables: dict[str, str]) -> None:
    """Run all steps of a page in order, then press Ctrl-C in every terminal."""
    todo = steps((ROOT / page).read_text(encoding="utf-8"))
    with ExitStack() as stack:
        terminals: dict[str, Terminal] = {}
        for number in sorted({step.terminal for step in todo}):
            directory = Path(stack.enter_context(private_directory()))
            terminals[number] = stack.enter_context(terminal(directory, cwd=checkout, environment=variables))
        for index, step in enumerate(todo):
            is_server = starts_server(step, todo[index + 1 :])
            await terminals[step.terminal].run(step.block.text, shown=step.shown, is_server=is_server)
        for opened in terminals.values():
            await opened.interrupt()


async def stop_postgresql(data_dir: Path) -> None:
    """Stop a PostgreSQL that a failed run left behind."""
    left = postmaster_on(data_dir)
    if left is not None:
        left.send_signal(signal.SIGQUIT)
        await until(lambda: not left.is_running(), "PostgreSQL ends")
