"""What a user asks for: a search, or a study opened again. Importing it imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Resources:
    """The device may be another; weights (a folder) and plugins (folders) are those of the search."""

    device: str = "auto"
    weights: Path | None = None
    plugins: tuple[Path, ...] = ()


@dataclass(frozen=True)
class SearchRequest:
    """What a user asks for. data: None is the built-in sample. flags: settings and ranges by name, over `config`'s."""

    data: Path | None = None
    name: str | None = None
    trials: int = 50
    timeout: float | None = None
    workers: int = 1
    device: str = "auto"
    config: Path | None = None
    weights: Path | None = None
    plugins: tuple[Path, ...] = ()
    manifest: Path | None = None
    skip_unreadable: bool = False
    flags: Mapping[str, Any] | None = None
