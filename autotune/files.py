"""Atomic writing of files, and the location of the cache folder."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

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
