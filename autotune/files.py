"""Atomic writing of files and folders, and the location of the cache folder."""

from __future__ import annotations

import contextlib
import glob
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import platformdirs
from filelock import FileLock, Timeout

from autotune.errors import StudyError


def cache_folder() -> Path:
    """Return the cache folder: AUTOTUNE_CACHE, or a folder in the user's cache folder."""
    return Path(os.environ.get("AUTOTUNE_CACHE") or platformdirs.user_cache_dir("autotune", appauthor=False))


def write_whole(file: Path, content: bytes | str, durable: bool = False) -> None:
    """Write a file atomically: kill -9 or a full disk leaves the old file unchanged. Text is written as UTF-8.

    durable: flush the file to disk before returning. Raises OSError.
    """
    data = content.encode() if isinstance(content, str) else content
    unfinished = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        with unfinished.open("wb") as out:
            out.write(data)
            if durable:
                out.flush()
                os.fsync(out.fileno())
        unfinished.replace(file)
    finally:
        unfinished.unlink(missing_ok=True)


@contextlib.contextmanager
def unfinished_folder(out: Path) -> Iterator[Path]:
    """Yield an empty folder beside `out`, to be renamed to it when it is complete; otherwise it is deleted on exit.

    The kernel holds its lock as long as this process lives: those of killed processes are deleted first. Raises
    OSError.
    """
    for lock in out.parent.glob(f".{glob.escape(out.name)}.unfinished-*.lock"):
        with contextlib.suppress(Timeout), FileLock(lock, timeout=0):
            shutil.rmtree(lock.with_suffix(""), ignore_errors=True)
            lock.unlink(missing_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{out.name}.unfinished-", dir=out.parent))
    lock = folder.with_name(f"{folder.name}.lock")
    try:
        with FileLock(lock):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        lock.unlink(missing_ok=True)


def make_folder(folder: Path) -> Path:
    """Create a folder of the cache if it does not exist, and return it. Raises StudyError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(folder, error) from error
    return folder


def unwritable(folder: Path, error: OSError) -> StudyError:
    return StudyError(
        f"{folder} cannot be written: {error.strerror}.",
        "Free some disk space, or set AUTOTUNE_CACHE to a folder on a larger disk, and run the same command again.",
    )
