"""Commands, run in the process of the tests: one of their own would import torch anew, which takes seconds."""

import contextlib
import gc
import io
import os
import sys
from dataclasses import dataclass
from unittest import mock

import pytest

from autotune.cli.app import main


@dataclass(frozen=True)
class Done:
    """What a command ended with and printed."""

    returncode: int
    stdout: str
    stderr: str


def run_command(*words: str, stdin: str = "", columns: int = 80) -> Done:
    """Run `autotune WORDS`, which reads stdin and has no terminal."""
    out, error = io.StringIO(), io.StringIO()
    with (
        mock.patch.dict(os.environ, COLUMNS=str(columns)),
        mock.patch.multiple(sys, argv=["autotune", *words], stdin=io.TextIOWrapper(io.BytesIO(stdin.encode()))),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(error),
        pytest.raises(SystemExit) as leave,
    ):
        main()
    gc.unfreeze()  # this process goes on
    code = leave.value.code
    assert isinstance(code, int)
    return Done(code, out.getvalue(), error.getvalue())
