"""Wrap lines between words on a terminal; without rich, whose import would slow down short commands."""

from __future__ import annotations

import shutil
import textwrap
from typing import TextIO


def wrapped(line: str, stream: TextIO, indent: str = "") -> str:
    """Return `line`, wrapped to the terminal's width if `stream` is a terminal. indent: of every line."""
    if not stream.isatty():
        return indent + line
    width = shutil.get_terminal_size().columns
    return textwrap.fill(
        line, width, initial_indent=indent, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )
