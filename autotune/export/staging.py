"""Staging: a folder that gets its name only when all its files are written."""

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
    """Yield an empty folder to write to, and the absolute path of `out`, to which it is renamed on exit.

    It is removed if the block raises. Raises BundleError if `out` is in use, cannot be written or the disk is full.
    """
    staging, out = _make_staging(out)
    try:
        yield staging, out
        _publish(staging, out)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise BundleError(f"{out} cannot be written: {error.strerror}.", "Free some disk space and retry.") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _make_staging(out: Path) -> tuple[Path, Path]:
    try:
        out = out.resolve()
        if out.exists() and (not out.is_dir() or any(out.iterdir()) or out.is_mount()):
            raise BundleError(f"{out} exists and is not an empty folder.", "Choose another folder, or one inside it.")
        out.parent.mkdir(parents=True, exist_ok=True)
        for left in out.parent.glob(f".{glob.escape(out.name)}.unfinished-*"):
            if time.time() - left.stat().st_mtime > SECONDS_OF_A_DAY:  # left by a killed export, not by a running one
                shutil.rmtree(left)
        return Path(tempfile.mkdtemp(prefix=f".{out.name}.unfinished-", dir=out.parent)), out
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links
        reason = getattr(error, "strerror", None) or error
        raise BundleError(f"{out} cannot be created: {reason}.", "Choose a folder that you can write to.") from error


def _publish(staging: Path, out: Path) -> None:
    staging.chmod(0o755)  # mkdtemp and safetensors give permissions only to the owner
    for file in staging.iterdir():
        file.chmod(0o644)
    if out.exists():
        out.rmdir()
    staging.rename(out)
