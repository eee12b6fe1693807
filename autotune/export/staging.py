"""Staging: a folder that gets its name only when all its files are written."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from autotune.errors import BundleError
from autotune.files import unfinished_folder


@contextmanager
def staged_folder(out: Path) -> Iterator[tuple[Path, Path]]:
    """Yield an empty folder to write to, and the absolute path of `out`, to which it is renamed on exit.

    It is removed if the block raises. Raises BundleError if `out` is in use, cannot be written or the disk is full.
    """
    out = _prepared(out)
    try:
        with unfinished_folder(out) as staging:
            yield staging, out
            _publish(staging, out)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
            raise
        raise BundleError(
            f"{out} cannot be written: {error.strerror}.", "Free some disk space, or choose another folder."
        ) from error


def _prepared(out: Path) -> Path:
    """Return the absolute path of a folder that can be created: its parent exists. Raises BundleError."""
    try:
        out = out.resolve()
        if out.exists() and (not out.is_dir() or any(out.iterdir()) or out.is_mount()):
            raise BundleError(f"{out} exists and is not an empty folder.", "Choose another folder, or one inside it.")
        out.parent.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links
        reason = getattr(error, "strerror", None) or error
        raise BundleError(f"{out} cannot be created: {reason}.", "Choose a folder that you can write to.") from error
    return out


def _publish(staging: Path, out: Path) -> None:
    staging.chmod(0o755)  # mkdtemp and safetensors give permissions only to the owner
    for file in staging.iterdir():
        file.chmod(0o644)
    if out.exists():
        out.rmdir()
    staging.rename(out)
