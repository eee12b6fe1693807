"""The size of the cache: what decoded pixels and cached features take on disk, and which of them are deleted."""

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
MOST_BYTES = 50 * 10**9  # by default, and never over half of the disk
KINDS = ("pixels", "features", "banks")  # banks: features of earlier versions, which nothing reads any more
RUNNING = "running"  # a folder with a locked file for each running study


@dataclass(frozen=True)
class CacheEntry:
    """The rows of one cut and view, or of one size, which are deleted as a whole. used: when, in seconds since 1970."""

    folder: Path
    rows: int
    n_bytes: int
    used: float

    @property
    def name(self) -> str:
        """pixels/224-bicubic, or features/efficientnet_lite0-224/cut9: without view, version and key."""
        inner = self.folder.relative_to(cache_folder())
        return "/".join((*inner.parts[:-1], re.sub(r"-(view\d+-.*|v\d+)$", "", inner.name)))


@dataclass(frozen=True)
class CacheGroup:
    """The rows of one size of pixels, or of one cut with all its views and versions. used: seconds since 1970."""

    name: str
    rows: int
    bytes: int
    used: float


@dataclass(frozen=True)
class CacheStatus:
    """limit: the most bytes that the cache keeps."""

    folder: Path
    limit: int
    groups: tuple[CacheGroup, ...]

    @property
    def bytes(self) -> int:
        return sum(group.bytes for group in self.groups)

    def to_json(self) -> dict[str, Any]:
        """What `autotune cache --json` prints."""
        rows = [asdict(group) for group in self.groups]
        return {"folder": str(self.folder), "bytes": self.bytes, "limit": self.limit, "entries": rows}


def entries() -> list[CacheEntry]:
    """All rows that can be deleted, the least recently used first."""
    found = []
    for kind in KINDS:
        for keys in (cache_folder() / kind).glob("**/keys.bin"):
            with contextlib.suppress(FileNotFoundError):  # another process has just deleted it
                status = keys.stat()
                rows, at = keys.with_name("rows.bin").stat(), status.st_mtime
                found.append(CacheEntry(keys.parent, status.st_size // KEY_BYTES, status.st_size + rows.st_size, at))
    return sorted(found, key=lambda one: (one.used, str(one.folder)))


def limit() -> int:
    """The most bytes the cache keeps, as AUTOTUNE_CACHE_LIMIT says. Raises ConfigError."""
    if said := os.environ.get(LIMIT):
        return parse_size(said)
    place = next(folder for folder in (cache_folder(), *cache_folder().parents) if folder.is_dir())
    return min(MOST_BYTES, shutil.disk_usage(place).total // 2)


def parse_size(text: str) -> int:
    """Bytes of "5GB", "500 MB", "1000". Raises ConfigError."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Z]*)\s*", text.upper())
    if not found or found[2] not in UNITS:
        raise ConfigError(f"{text!r} is no size.", "Write a number and a unit: 500MB, 20GB.")
    return int(float(found[1]) * UNITS[found[2]])


def trim(most: int) -> list[CacheEntry]:
    """Delete the least recently used rows until at most so many bytes are left, but none that a running study uses."""
    there = entries()
    taken, since = sum(one.n_bytes for one in there), _running_since()
    gone = []
    for one in there:
        if taken <= most or one.used >= since:
            break
        if _deleted(one.folder):
            taken -= one.n_bytes
            gone.append(one)
    return gone


def clear() -> list[CacheEntry]:
    """Delete all pixels and features. Raises StudyError while a study runs."""
    if _running_since() < float("inf"):
        raise StudyError("A study is running, and uses the cache.", "Wait until it ends, or stop it.")
    return trim(-1)


@contextlib.contextmanager
def in_use() -> Iterator[None]:
    """Keep other processes from deleting what is used from now on. It is a lock, so that kill -9 releases it."""
    lock = FileLock(make_folder(cache_folder() / RUNNING) / f"{os.getpid()}-{uuid.uuid4().hex[:8]}.lock")
    try:
        with lock:
            yield
    finally:
        Path(lock.lock_file).unlink(missing_ok=True)


def cache_status() -> CacheStatus:
    """What the cache holds, the most recently used first."""
    groups: dict[str, CacheGroup] = {}
    for one in entries():
        known = groups.get(one.name, CacheGroup(one.name, 0, 0, 0.0))
        used = max(known.used, one.used)
        groups[one.name] = CacheGroup(one.name, known.rows + one.rows, known.bytes + one.n_bytes, used)
    return CacheStatus(cache_folder(), limit(), tuple(sorted(groups.values(), key=lambda group: -group.used)))


def _running_since() -> float:
    """When the first of the running studies was started, in seconds since 1970; infinity where none runs."""
    first = float("inf")
    for file in (cache_folder() / RUNNING).glob("*.lock"):
        if file.name.startswith(f"{os.getpid()}-"):
            continue
        try:
            begun = file.stat().st_mtime
            with FileLock(file, timeout=0):
                pass
            file.unlink(missing_ok=True)  # its process is gone
        except Timeout:
            first = min(first, begun)
        except FileNotFoundError:  # it has just ended
            continue
    return first


def _deleted(folder: Path) -> bool:
    """Delete a folder, renamed first so that nobody reads half of it. False where the system forbids it."""
    away = folder.with_name(f".gone-{uuid.uuid4().hex[:8]}")
    try:
        folder.rename(away)
    except OSError:  # Windows keeps what is mapped
        return False
    shutil.rmtree(away, ignore_errors=True)
    return True
