"""Run commands in the test process: a new process would import torch again, which takes seconds."""

import contextlib
import gc
import io
import os
import sys
from dataclasses import dataclass
from unittest import mock

import psutil
import pytest

from autotune.cli.main import main


@dataclass(frozen=True)
class Done:
    """The exit code and the output of a command."""

    returncode: int
    stdout: str
    stderr: str


def run_command(*words: str, stdin: str = "", columns: int = 80) -> Done:
    """Run `autotune WORDS` with this standard input and without a terminal."""
    out, error = io.StringIO(), io.StringIO()
    with (
        mock.patch.dict(os.environ, COLUMNS=str(columns)),
        mock.patch.multiple(sys, argv=["autotune", *words], stdin=io.TextIOWrapper(io.BytesIO(stdin.encode()))),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(error),
        pytest.raises(SystemExit) as leave,
    ):
        main()
    gc.unfreeze()  # the test process continues
    code = leave.value.code
    assert isinstance(code, int)
    return Done(code, out.getvalue(), error.getvalue())


def workers_of(pid: int) -> list[psutil.Process]:
    """Return the workers of a driver's process, without Python's helpers that run until its end."""
    below = psutil.Process(pid).children(recursive=True)
    helpers = ("forkserver", "resource_tracker")
    helping = {one.pid for one in below if one.ppid() == pid and any(name in _line(one) for name in helpers)}
    return [one for one in below if one.pid not in helping]


def _line(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:  # it has just ended
        return ""
