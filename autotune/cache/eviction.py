"""The size of the pixel and feature caches on disk, and the eviction of the least recently used rows."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from autotune.cache.rows import KEY_BYTES
from autotune.errors import ConfigError, StudyError
from autotune.files import cache_folder, make_folder
from autotune.text import UNITS

LIMIT = "AUTOTUNE_CACHE_LIMIT"
MOST_BYTES = 50 * 10**9  # the default limit, or half of the disk if that is less
KINDS = ("pixels", "features", "banks")  # banks: features of earlier versions, no longer read
RUNNING = "running"  # a folder with one locked file per running study
_own: set[Path] = set()  # the locks that this process holds


@dataclass(frozen=True)
class CacheEntry:
    """The rows of one cut and view, or of one size, deleted as a unit. used: last use, in seconds since 1970."""

    folder: Path
    rows: int
    n_bytes: int
    used: float

    @property
    def name(self) -> str:
        """The name without view, version and key: pixels/224-bicubic or features/efficientnet_lite0-224/cut9."""
        inner = self.folder.relative_to(cache_folder())
        return "/".join((*inner.parts[:-1], re.sub(r"-(view\d+-.*|v\d+)$", "", inner.name)))


@dataclass(frozen=True)
class CacheGroup:
    """The rows of one size of pixels, or of one cut with all views and versions. used: seconds since 1970."""

    name: str
    rows: int
    bytes: int
    used: float


@dataclass(frozen=True)
class CacheStatus:
    """The contents of the cache. limit: its maximum size in bytes."""

    folder: Path
    limit: int
    groups: tuple[CacheGroup, ...]

    @property
    def bytes(self) -> int:
        return sum(group.bytes for group in self.groups)

    def to_json(self) -> dict[str, Any]:
        """Return the output of `autotune cache --json`."""
        rows = [asdict(group) for group in self.groups]
        return {"folder": str(self.folder), "bytes": self.bytes, "limit": self.limit, "entries": rows}


def entries() -> list[CacheEntry]:
    """Return all entries, the least recently used first."""
    found = []
    for kind in KINDS:
        for keys in (cache_folder() / kind).glob("**/keys.bin"):
            with contextlib.suppress(FileNotFoundError):  # deleted by another process
                status = keys.stat()
                size = sum(file.stat().st_size for file in keys.parent.glob("*.bin"))
                found.append(CacheEntry(keys.parent, status.st_size // KEY_BYTES, size, status.st_mtime))
    return sorted(found, key=lambda one: (one.used, str(one.folder)))


def limit() -> int:
    """Return the maximum size of the cache in bytes: AUTOTUNE_CACHE_LIMIT or the default. Raises ConfigError."""
    if given := os.environ.get(LIMIT):
        return parse_size(given)
    existing = next(folder for folder in (cache_folder(), *cache_folder().parents) if folder.is_dir())
    return min(MOST_BYTES, shutil.disk_usage(existing).total // 2)


def parse_size(text: str) -> int:
    """Parse "5GB", "500 MB" or "1000" into bytes. Raises ConfigError."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Z]*)\s*", text.upper())
    if not found or found[2] not in UNITS:
        raise ConfigError(f"{text!r} is not a size.", "Write a number and a unit, such as 500MB or 20GB.")
    return int(float(found[1]) * UNITS[found[2]])


def trim(most: int) -> list[CacheEntry]:
    """Evict the least recently used entries until at most `most` bytes are left; keep those used by running studies."""
    found = entries()
    left, since = sum(one.n_bytes for one in found), _running_since()
    evicted = []
    for one in found:
        if left <= most or one.used >= since:
            break
        if _delete(one.folder):
            left -= one.n_bytes
            evicted.append(one)
    return evicted


def clear() -> list[CacheEntry]:
    """Delete all pixels and features. Raises StudyError while a study runs."""
    if _running_since() < float("inf"):
        raise StudyError("A running study is using the cache.", "Wait until it finishes, or stop it.")
    return trim(-1)


@contextlib.contextmanager
def in_use() -> Iterator[None]:
    """Prevent other processes from deleting entries used from now on. The file lock is also released by kill -9."""
    file = make_folder(cache_folder() / RUNNING) / f"{uuid.uuid4().hex}.lock"  # a PID is not unique among containers
    _own.add(file)
    try:
        with FileLock(file):
            yield
    finally:
        file.unlink(missing_ok=True)
        _own.discard(file)


def cache_status() -> CacheStatus:
    """Return the contents of the cache, the most recently used first."""
    groups: dict[str, CacheGroup] = {}
    for one in entries():
        known = groups.get(one.name, CacheGroup(one.name, 0, 0, 0.0))
        used = max(known.used, one.used)
        groups[one.name] = CacheGroup(one.name, known.rows + one.rows, known.bytes + one.n_bytes, used)
    return CacheStatus(cache_folder(), limit(), tuple(sorted(groups.values(), key=lambda group: -group.used)))


def _running_since() -> float:
    """Return the start of the earliest running study, in seconds since 1970; infinity if no study is running."""
    first = float("inf")
    for file in (cache_folder() / RUNNING).glob("*.lock"):
        if file in _own:
            continue
        try:
            started = file.stat().st_mtime
            with FileLock(file, timeout=0):
                pass
            file.unlink(missing_ok=True)  # left by a killed process
        except Timeout:
            first = min(first, started)
        except FileNotFoundError:  # the study has just finished
            continue
    return first


def _delete(folder: Path) -> bool:
    """Rename and delete a folder, to hide partial contents from readers. Returns False if the system forbids it."""
    away = folder.with_name(f".gone-{uuid.uuid4().hex[:8]}")
    try:
        folder.rename(away)
    except OSError:  # Windows does not rename mapped files
        return False
    shutil.rmtree(away, ignore_errors=True)
    return True
