"""Commands for cells: list, add, close, open, move and delete."""

from typing import TYPE_CHECKING

import click

from app.cli.opening import configured, with_database
from app.cli.options import check_organization

if TYPE_CHECKING:
    from collections.abc import Sequence

    from app.cell_commands import Cell
    from app.composition.database_access import DatabaseAccess
    from app.database.cells.nodes import Node


@click.group()
def cells() -> None:
    """List, add and use cells: schemas that have all tables of some organizations."""


@cells.command("list")
def list_cells_command() -> None:
    """List the cells and how many organizations each has. On Citus, also the nodes, their versions and cells."""
    settings = configured()

    import asyncio

    from app.cell_commands import list_cells, list_nodes

    async def read(access: "DatabaseAccess") -> "tuple[Sequence[Cell], Sequence[Node]]":
        return await list_cells(settings, access), await list_nodes(settings, access)

    found, nodes = with_database(settings, lambda access: asyncio.run(read(access)))
    for cell in found:
        place = f", on {'the coordinator' if cell.worker is None else cell.worker}" if nodes else ""
        click.echo(
            f"{cell.name}: {_count(cell.organizations)}{place}{'' if cell.takes_new else ', takes no new ones'}"
        )
    for node in nodes:
        click.echo(f"{node.name}: {node.versions}")


@cells.command("add")
@click.argument("name")
@click.option("--on-coordinator", is_flag=True, help="On Citus, leave the cell on the coordinator.")
def add_cell_command(name: str, *, on_coordinator: bool) -> None:
    """Create a cell. A share of the new organizations will live in it.

    Before the first cell is added, stop every instance of the service. In a database with the Citus extension, the cell is
    on a worker, which Citus chooses. If something is missing for that, the command shows how to fix it, and changes
    nothing. If it is interrupted, run it again.
    """
    settings = configured()

    import asyncio

    from app.cell_commands import add_cell

    worker = with_database(
        settings,
        lambda access: asyncio.run(add_cell(settings, access, name, on_coordinator=on_coordinator)),
    )
    place = "" if worker is None else f" on {worker}"
    click.echo(
        f"Added the cell {name}{place}. Next: byok cells move ORG {name}, to move an organization there"
    )


@cells.command("close")
@click.argument("name")
def close_command(name: str) -> None:
    """Let a cell take no new organizations. Those that live there stay."""
    _let_take_new(name, takes_new=False)
    click.echo(f"The cell {name} takes no new organizations. Next: byok cells move ORG CELL, to empty it")


@cells.command("open")
@click.argument("name")
def open_command(name: str) -> None:
    """Let a cell take new organizations again."""
    _let_take_new(name, takes_new=True)
    click.echo(f"The cell {name} takes new organizations.")


@cells.command("delete")
@click.argument("name")
def delete_command(name: str) -> None:
    """Delete a cell in which no organization lives, with its tables.

    It is refused while an organization lives there, or while rows of a stopped move are left. The message names up to 10
    of these organizations.
    """
    settings = configured()

    import asyncio

    from app.cell_commands import delete

    with_database(settings, lambda access: asyncio.run(delete(settings, access, name)))
    click.echo(f"Deleted the cell {name}.")


@cells.command("move")
@click.argument("organization", metavar="ORG")
@click.argument("cell")
def move_command(organization: str, cell: str) -> None:
    """Move an organization to another cell.

    Its requests wait, and fail with 503 after BYOK_DATABASE__TIMEOUT, until its rows are copied. Others are not
    affected, but the rollups of all organizations wait. An interrupted move may be repeated.
    """
    check_organization(organization)
    settings = configured()

    import asyncio

    from app.cell_commands import move

    moved = with_database(
        settings,
        lambda access: asyncio.run(move(settings, access, organization, cell, _print_progress)),
    )
    if moved.source == moved.target:
        click.echo(f"The organization lives in {cell}.")
    else:
        click.echo(f"Moved {moved.rows} rows from {moved.source} to {cell}, and compared counts and sums.")


def _count(organizations: int | None) -> str:
    if organizations is None:
        return "all organizations"
    return "1 organization" if organizations == 1 else f"{organizations} organizations"


def _let_take_new(name: str, *, takes_new: bool) -> None:
    settings = configured()

    import asyncio

    from app.cell_commands import let_take_new

    with_database(
        settings, lambda access: asyncio.run(let_take_new(settings, access, name, takes_new=takes_new))
    )


def _print_progress(line: str) -> None:
    click.echo(line)
