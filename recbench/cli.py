"""The command line: parse, call, print.

Heavy imports happen inside the commands: ``recbench --help`` must answer at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from recbench.errors import RecbenchError

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


def main() -> None:
    """Run the command line."""
    app()
