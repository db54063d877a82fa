"""The command line, `byok`: a module for each kind of command.

Each command imports what it needs when it runs: the whole application takes ten times as long to import as this package.
"""

from app.cli.commands import main

__all__ = ["main"]
