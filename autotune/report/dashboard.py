"""The dashboard: optuna-dashboard in the browser, on a study's trials.db, which it can only read."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import Any
from urllib.parse import quote
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from sqlalchemy.exc import SQLAlchemyError

from autotune.errors import AutotuneError, StudyError
from autotune.study.summary import find_study

HOST = "127.0.0.1"  # whoever reaches the page sees the study, so only this machine does


def serve_dashboard(name: str, port: int, say: Callable[[str], None]) -> None:
    """Show a study's trials at http://127.0.0.1:PORT until Ctrl-C, also while it runs. Port 0: any that is free.

    Raises AutotuneError where optuna-dashboard is not installed, the study has no trials yet, or the port is taken.
    """
    folder = find_study(name)
    try:
        import optuna_dashboard
    except ImportError as error:
        raise AutotuneError(
            "The dashboard is not installed.", "Install it: pip install 'autotune-vision[dashboard]'"
        ) from error
    logging.getLogger("optuna_dashboard").setLevel(logging.CRITICAL)  # else each refused write prints a traceback
    server = _listening(optuna_dashboard.wsgi(_read_only(folder)), port)
    say(f"Study {folder.name}: http://{HOST}:{server.server_port}\nThe page can only read. Ctrl-C ends it.")
    with server, contextlib.suppress(KeyboardInterrupt):  # Ctrl-C is how it is ended
        server.serve_forever()


def _read_only(folder: Path) -> RDBStorage:
    """Optuna's storage, opened so that SQLite itself refuses to write: a search may be at work on the file."""
    file = quote(str((folder / "trials.db").resolve()))
    try:
        storage = RDBStorage(
            f"sqlite:///file:{file}?mode=ro&uri=true", skip_compatibility_check=True, skip_table_creation=True
        )
        begun = bool(storage.get_all_studies())
    except (SQLAlchemyError, StorageInternalError):  # not there, without tables, or in need of a writer's repair
        begun = False
    if not begun:
        raise StudyError(
            f"Study {folder.name} has no trials to show yet.", "Wait for its first, or go on with it: autotune search"
        )
    return storage


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True  # an open page must not outlive Ctrl-C
    allow_reuse_address = sys.platform != "win32"  # where it would let two servers share a port


class _Handler(WSGIRequestHandler):
    def log_message(self, *_: Any) -> None:
        """Says nothing of each request."""


def _listening(app: Any, port: int) -> _Server:
    try:
        return make_server(HOST, port, app, _Server, _Handler)
    except OSError as error:
        raise AutotuneError(
            f"Port {port} cannot be used: {error.strerror}.", "Take any that is free: --port 0"
        ) from error
