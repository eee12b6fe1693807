"""How files are written whole or not at all, and where the cache folder is."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

from autotune.errors import StudyError


def cache_folder() -> Path:
    """Where decoded pixels and cached features are kept: AUTOTUNE_CACHE, or the user's cache folder."""
    return Path(os.environ.get("AUTOTUNE_CACHE") or platformdirs.user_cache_dir("autotune", appauthor=False))


def write_whole(file: Path, content: bytes | str, durable: bool = False) -> None:
    """Write a file whole or not at all: kill -9 and a full disk leave the old one. Text is written as UTF-8.

    durable: it is on the disk, and not only in the system's memory, when this returns. Raises OSError.
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
    """A folder of the cache, made if it is not there. Raises StudyError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(folder, error) from error
    return folder


def unwritable(folder: Path, error: OSError) -> StudyError:
    return StudyError(
        f"{folder} cannot be written: {error.strerror}.",
        "Free some disk space, or set AUTOTUNE_CACHE to a folder on a larger disk; then run the same command.",
    )
