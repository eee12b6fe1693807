"""The output of tasks: each has its own log, with all that Python and native libraries print."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path


def log_file(folder: Path, name: str) -> Path:
    """Return the file with the output of the task with this name."""
    return folder / "logs" / f"{name}.log"


def redirect_output(file: Path) -> None:
    """Append all output of this process, from Python and from native libraries, to a file. On a full disk: to none."""
    flush_output()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        out = file.open("ab")
    except OSError:
        out = open(os.devnull, "ab")  # noqa: SIM115
    with out:
        os.dup2(out.fileno(), 1)
        os.dup2(out.fileno(), 2)


def flush_output() -> None:
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()


def leave(code: int) -> None:
    """End this process without the clean-up of the interpreter and of torch, which takes more than a second."""
    flush_output()
    os._exit(code)
