"""What a user asks for: a search, or a study opened again. Importing it imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Resources:
    """What a finished study is opened again with. The device may differ from the search's; weights (a folder) and
    plugins (folders) must not.
    """

    device: str = "auto"
    weights: Path | None = None
    plugins: tuple[Path, ...] = ()


@dataclass(frozen=True)
class SearchRequest:
    """A search to start or to go on with. data: None for the built-in digits. trials: in all, with earlier ones.

    timeout: seconds. flags: settings and ranges by name; they come before those of config.
    """

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
