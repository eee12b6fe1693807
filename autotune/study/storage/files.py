"""The files of a study that its record refers to. Their hashes are in the record and checked on every read."""

from __future__ import annotations

import hashlib
from pathlib import Path

from autotune.errors import StudyError
from autotune.files import write_whole
from autotune.study.storage.record import RESTORE, Record


class StudyFiles:
    """Files in a study's folder, by their paths relative to it. Raises StudyError."""

    def __init__(self, folder: Path, record: Record) -> None:
        self._folder = folder
        self._record = record

    def keep(self, path: str, content: bytes) -> str:
        """Write a file, and return its path. It is on disk, and its hash is recorded, when this returns."""
        file = self._folder / path
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_whole(file, content, durable=True)
        except OSError as error:
            raise StudyError(
                f"{file} cannot be written: {error.strerror}.",
                "Free some disk space, then run the same command again to resume.",
            ) from error
        self._record.keep_digest(path, _digest(content))
        return path

    def content(self, path: str) -> bytes:
        """Return the content of a file. Raises StudyError if it is missing or not the one that was written."""
        file = self._folder / path
        try:
            content = file.read_bytes()
        except FileNotFoundError as error:
            raise StudyError(f"{file} is missing.", RESTORE) from error
        except OSError as error:
            raise StudyError(f"{file} cannot be read: {error.strerror}.", RESTORE) from error
        known = self._record.digest(path)  # None: written by an earlier version
        if known is not None and known != _digest(content):
            raise StudyError(f"{file} is damaged, or another file: it is not the one that the study wrote.", RESTORE)
        return content


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()
