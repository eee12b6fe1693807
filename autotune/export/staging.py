"""Staging: a folder that gets its name only when all its files are written. It may replace a bundle."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from autotune.errors import BundleError
from autotune.export import bundle
from autotune.files import unfinished_folder


@contextmanager
def staged_folder(out: Path, study: str) -> Iterator[tuple[Path, Path]]:
    """Yield an empty folder to write to, and the absolute path of `out`, to which it is renamed on exit.

    It is removed if the block raises. An unchanged bundle of the study at `out` is then replaced. Raises BundleError if
    `out` contains anything else, cannot be written or the disk is full.
    """
    out = _prepared(out, study)
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


def refuse_overlap(folder: Path, source: Path) -> None:
    """Raise BundleError if a folder to write contains the bundle, or lies in it."""
    inner, outer = folder.resolve(), source.resolve()
    if inner.is_relative_to(outer) or outer.is_relative_to(inner):
        raise BundleError(f"{folder} and the bundle {source} overlap.", "Choose another folder.")


def _prepared(out: Path, study: str) -> Path:
    """Return the absolute path of a folder that can be created or replaced: its parent exists. Raises BundleError."""
    try:
        out = out.resolve()
        is_free = not out.exists() or (out.is_dir() and not out.is_mount() and not any(out.iterdir()))
        if not is_free and not bundle.is_unchanged(out, study):
            raise BundleError(
                f"{out} exists, and is neither an empty folder nor an unchanged bundle of study {study}.",
                "Choose another folder.",
            )
        out.parent.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links
        reason = getattr(error, "strerror", None) or error
        raise BundleError(f"{out} cannot be created: {reason}.", "Choose a folder that you can write to.") from error
    return out


def _publish(staging: Path, out: Path) -> None:
    staging.chmod(0o755)  # mkdtemp and safetensors give permissions only to the owner
    for file in staging.iterdir():
        file.chmod(0o644)
    with unfinished_folder(out) as rubbish:  # deleted, also after kill -9, by the next export
        if out.exists():
            out.rename(rubbish / out.name)
        staging.rename(out)
