"""Means: with what a finished study is opened again, which has to be as it was searched."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Means:
    """The device may be another; weights (a folder) and plugins (folders) are those of the search."""

    device: str = "auto"
    weights: Path | None = None
    plugins: tuple[Path, ...] = ()
