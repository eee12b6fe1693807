"""Requests: a search, or a study to reopen. Importing this module does not import torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LOCAL = "local"  # the engine on this machine


@dataclass(frozen=True)
class Resources:
    """The resources to reopen a finished study with. The device may differ from the search's; weights (a folder) and
    plugins (folders) must be the same.
    """

    device: str = "auto"
    weights: Path | None = None
    plugins: tuple[Path, ...] = ()


@dataclass(frozen=True)
class SearchRequest:
    """A search to start or resume. data: None for the built-in digits. trials: in total, including earlier ones.

    timeout: in seconds. engine: where trials run. workers: trials at once on each GPU, or on the CPU; on a cluster, in
    total. address: of the cluster. after: an earlier study, by name or folder. device_profile: of the device that
    the limits are for; None: this machine.
    flags: settings and ranges by name; they override those of config.
    """

    data: Path | None = None
    name: str | None = None
    trials: int = 50
    timeout: float | None = None
    workers: int | None = None
    device: str = "auto"
    engine: str = LOCAL
    address: str | None = None
    gpus_per_trial: float | None = None
    config: Path | None = None
    weights: Path | None = None
    plugins: tuple[Path, ...] = ()
    manifest: Path | None = None
    after: str | None = None
    device_profile: Path | None = None
    skip_unreadable: bool = False
    flags: Mapping[str, Any] | None = None
