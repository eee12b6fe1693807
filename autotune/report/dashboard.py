"""The dashboard: optuna-dashboard on a study's trials.db, which is opened read-only."""

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
from autotune.study.storage.record import TRIALS
from autotune.study.summary import find_study

PAGE = "/dashboard/studies/1"  # of the only study in a trials.db
HOST = "127.0.0.1"  # only this machine: the page has no access control


def serve_dashboard(name: str, port: int, say: Callable[[str], None]) -> None:
    """Serve a study's trials at http://127.0.0.1:PORT until Ctrl-C, also while it runs. port 0: any free port.

    Raises AutotuneError if optuna-dashboard is not installed, the study has no trials yet, or the port cannot be used.
    """
    folder = find_study(name)
    try:
        import optuna_dashboard
    except ImportError as error:
        raise AutotuneError(
            "The dashboard is not installed.", "Install it with `pip install 'autotune-vision[dashboard]'`."
        ) from error
    logging.getLogger("optuna_dashboard").setLevel(logging.CRITICAL)  # else every rejected write prints a traceback
    server = _listening(_only_local(optuna_dashboard.wsgi(_read_only(folder))), port)
    say(f"Study {folder.name}: http://{HOST}:{server.server_port}\nThe page is read-only. Press Ctrl-C to stop it.")
    with server, contextlib.suppress(KeyboardInterrupt):  # the normal way to stop
        server.serve_forever()


def _read_only(folder: Path) -> RDBStorage:
    """Open Optuna's storage in SQLite's read-only mode, because a search may be writing to the file."""
    file = quote(str((folder / TRIALS).resolve()))
    try:
        storage = RDBStorage(
            f"sqlite:///file:{file}?mode=ro&uri=true", skip_compatibility_check=True, skip_table_creation=True
        )
        has_study = bool(storage.get_all_studies())
    except (SQLAlchemyError, StorageInternalError):  # missing, no tables, or an interrupted write to roll back
        has_study = False
    if not has_study:
        raise StudyError(
            f"Study {folder.name} has no trials to show yet.",
            "Wait for its first trial, or resume it with `autotune search`.",
        )
    return storage


def _only_local(app: Any) -> Any:
    """Return an app that opens on the study, and refuses requests for other hosts: a page of a stranger could otherwise
    read the study. The list of all studies has buttons to create and delete, which would fail.
    """

    def checked(environ: dict[str, Any], start_response: Any) -> Any:
        name = environ.get("HTTP_HOST", "").rpartition(":")[0] or environ.get("HTTP_HOST", "")
        if name not in (HOST, "localhost"):
            start_response("403 Forbidden", [("Content-Type", "text/plain")])
            return [b"This page is served to this machine only.\n"]
        if environ.get("PATH_INFO", "").rstrip("/") in ("", "/dashboard"):
            start_response("302 Found", [("Location", PAGE)])
            return [b""]
        return app(environ, start_response)

    return checked


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True  # an open connection must not delay the exit after Ctrl-C
    allow_reuse_address = sys.platform != "win32"  # there, it lets two servers share a port


class _Handler(WSGIRequestHandler):
    def log_message(self, *_: Any) -> None:
        """Do not log requests."""


def _listening(app: Any, port: int) -> _Server:
    try:
        return make_server(HOST, port, app, _Server, _Handler)
    except OSError as error:
        raise AutotuneError(
            f"Port {port} cannot be used: {error.strerror}.", "Use another port, or `--port 0` for any free port."
        ) from error
