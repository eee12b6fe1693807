"""The lock of a study: one driver at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from autotune.errors import StudyError

LOCK = "lock"
IN_USE, WAIT = "is in use by another process.", "Wait until it finishes, or stop it."
PATIENCE = 0.2  # seconds: `status` holds the lock for an instant to see whether a study runs


@contextmanager
def lock_study(folder: Path) -> Iterator[None]:
    """Lock a study for one driver. Raises StudyError if another process has the lock."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StudyError(
            f"{folder.resolve()} cannot be created: {error.strerror}.",
            "Run the command in a folder that you can write to.",
        ) from error
    lock = FileLock(folder / LOCK, timeout=PATIENCE)
    try:
        lock.acquire()
    except Timeout as error:
        raise StudyError(f"Study {folder.name} {IN_USE}", WAIT) from error
    try:
        yield
    finally:
        lock.release()


def refuse_in_use(folder: Path) -> None:
    """Raise StudyError if another process has the lock of a study. Nothing is created."""
    if (folder / LOCK).is_file():
        with lock_study(folder):
            pass


def is_in_use(folder: Path) -> bool:
    """Return whether another process has the lock of a study. Nothing is created."""
    try:
        refuse_in_use(folder)
    except StudyError:
        return True
    except OSError:  # a folder that only others can write to
        return False
    return False
