"""Run a command: errors in two lines, signals, exit codes."""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
import threading
from typing import Any, NoReturn

import typer

from autotune.cli.app import app
from autotune.cli.views.wrap import wrapped
from autotune.errors import AutotuneError
from autotune.garbage import collected_less_often
from autotune.text import visible

UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT)
INTERRUPTED = 130  # Typer's exit code after Ctrl-C
UsageError: Any = typer.BadParameter.__mro__[1]  # Typer has its own copy of Click, or needs Click, by its version


def main() -> NoReturn:
    """Run a command. Print an error that the user can fix in two lines and exit with 1; a bug keeps its traceback."""
    _treat_as_ctrl_c("SIGTERM", "SIGHUP")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names may have characters that the terminal has not
    before = set(threading.enumerate())
    try:
        _run()
    except SystemExit as leave:
        if any(not one.daemon for one in set(threading.enumerate()) - before):
            _exit_at_once(leave.code)
        raise


def _treat_as_ctrl_c(*names: str) -> None:
    """End cleanly when the system shuts down or the terminal is closed, unless a signal is ignored, as under nohup."""
    if threading.current_thread() is not threading.main_thread():
        return
    for number in (getattr(signal, name) for name in names if hasattr(signal, name)):
        if signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, signal.default_int_handler)


def _exit_at_once(code: str | int | None) -> NoReturn:
    """Exit although a plugin has started a thread that has not ended: Python would wait for it."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else 0 if code is None else 1)


def _run() -> NoReturn:
    try:
        with collected_less_often():
            code = app(standalone_mode=False)
    except UsageError as error:
        command = error.ctx.command_path if error.ctx else "autotune"
        _print_error(error.format_message(), f"For the options: {command} --help")
        sys.exit(error.exit_code)
    except typer.Abort:  # Ctrl-C or the end of stdin, in answer to a question
        print("Aborted.", file=sys.stderr)
        sys.exit(1)
    except AutotuneError as error:
        _print_error(error.problem, error.fix)
        sys.exit(1)
    except OSError as error:
        if error.errno not in UNWRITABLE or error.filename is None:
            raise
        _print_error(
            f"{error.filename} cannot be written: {error.strerror}.",
            "Free some disk space, or use a folder that you can write to.",
        )
        sys.exit(1)
    if code == INTERRUPTED:
        print("Stopped. Finished work is saved; run the same command again to resume.", file=sys.stderr)
    sys.exit(code or 0)


def _print_error(*lines: str) -> None:
    for line in lines:  # file names may contain line breaks and control characters
        print(wrapped(visible(" ".join(line.splitlines())), sys.stderr), file=sys.stderr)
