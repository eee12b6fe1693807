"""Staging: a folder that appears under its name only when all of it has been written."""

from __future__ import annotations

import errno
import glob
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from autotune.errors import BundleError

SECONDS_OF_A_DAY = 86_400


@contextmanager
def staged_folder(out: Path) -> Iterator[tuple[Path, Path]]:
    """An empty folder to write into, and the absolute path of `out`, which it is renamed to when the block ends.

    It is removed when the block raises. Raises BundleError where `out` is taken, cannot be written or the disk is full.
    """
    staging, out = _make_staging(out)
    try:
        yield staging, out
        _publish(staging, out)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise BundleError(f"{out} cannot be written: {error.strerror}.", "Free some disk space; then again.") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _make_staging(out: Path) -> tuple[Path, Path]:
    try:
        out = out.resolve()
        if out.exists() and (not out.is_dir() or any(out.iterdir()) or out.is_mount()):
            raise BundleError(f"{out} is there and is not an empty folder.", "Name another folder, or one in it.")
        out.parent.mkdir(parents=True, exist_ok=True)
        for left in out.parent.glob(f".{glob.escape(out.name)}.unfinished-*"):
            if time.time() - left.stat().st_mtime > SECONDS_OF_A_DAY:  # of an export that was killed, not one at work
                shutil.rmtree(left)
        return Path(tempfile.mkdtemp(prefix=f".{out.name}.unfinished-", dir=out.parent)), out
    except (OSError, RuntimeError) as error:  # RuntimeError: links that go round in a circle
        reason = getattr(error, "strerror", None) or error
        raise BundleError(f"{out} cannot be made: {reason}.", "Name a folder that you may write.") from error


def _publish(staging: Path, out: Path) -> None:
    staging.chmod(0o755)  # mkdtemp's is for its owner alone, and so is what safetensors writes
    for file in staging.iterdir():
        file.chmod(0o644)
    if out.exists():
        out.rmdir()
    staging.rename(out)
