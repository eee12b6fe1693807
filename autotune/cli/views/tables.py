"""Tables and paths in the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from autotune.text import visible

if TYPE_CHECKING:
    from rich.table import Table


def cell_name(text: str) -> str:
    """Return a name for a cell: without control characters, and not taken for markup."""
    from rich.markup import escape

    return escape(visible(text))


def new_table() -> Table:
    from rich.table import Table

    return Table(box=None, pad_edge=False)


def short_path(folder: Path) -> str:
    """Abbreviate the home folder as ~."""
    return f"~/{folder.relative_to(Path.home()).as_posix()}" if folder.is_relative_to(Path.home()) else str(folder)
