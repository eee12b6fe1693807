"""Checks of a request that need neither the pictures nor torch, whose import takes seconds."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from autotune.backbones.recommended import with_recommended
from autotune.backbones.registry import Registry, discover
from autotune.data import datasets
from autotune.data.catalog import refuse_few_classes
from autotune.errors import ConfigError, StudyError
from autotune.formats.cost import DeviceProfile, read_profile
from autotune.formats.table import find_format
from autotune.search.ranges import values_of
from autotune.search.settings import Settings, read_settings
from autotune.study.engines import check_engine
from autotune.study.growth.after import earlier_folder
from autotune.study.request import SearchRequest
from autotune.study.summary import STUDIES

DEVICE = re.compile(r"auto|cpu|mps|cuda(:\d+)?")


@dataclass(frozen=True)
class CheckedRequest:
    """What a request asks for. earlier: the folder of the study that it follows. settings: not yet resolved.

    profile: of the device that the limits are for; None: this machine.
    """

    folder: Path
    earlier: Path | None
    settings: Settings
    registry: Registry
    profile: DeviceProfile | None


def check_request(request: SearchRequest) -> CheckedRequest:
    """Read the settings and find the plugins of a request. Raises AutotuneError for problems that the user can fix."""
    folder = study_folder(request)
    datasets.check_exists(request.data)
    settings = read_settings(_config(request, folder), request.flags or {}, datasets.is_writing(request.data))
    check_device_name(request.device)
    check_engine(request)
    earlier = earlier_folder(request, folder)
    registry = discover(request.plugins)
    for name in with_recommended(map(str, values_of(settings.space.backbone)), "cpu"):
        registry.find(name)
    if request.data is not None:
        refuse_few_classes(request.data)
    return CheckedRequest(folder, earlier, settings, registry, _profile(request, settings))


def study_folder(request: SearchRequest) -> Path:
    """Return the study folder, studies/NAME; the name defaults to the data folder's. Raises StudyError."""
    name = request.name or datasets.default_study_name(request.data)
    # "?" would end the path of a database's URL, "<" and ">" would be HTML on a page.
    if not name or name.startswith(".") or set(name) & set("/\\?<>") or not name.isprintable():
        raise StudyError(
            f"A study cannot be named {name!r}.",
            "Choose a printable name without /, \\, ?, < and >, and without a dot at the start: --study NAME",
        )
    return STUDIES / name


def check_device_name(name: str) -> None:
    """Raise ConfigError if no machine has a device of this name; torch tells later whether this one has it."""
    if not DEVICE.fullmatch(name):
        raise ConfigError(
            f"Device {name!r} is not available.", "Choose from: auto, cpu, cuda, mps. cuda:1 is the second GPU."
        )


def _profile(request: SearchRequest, settings: Settings) -> DeviceProfile | None:
    """Return the given device profile. Raises AutotuneError if it is not one, or if this machine cannot be measured."""
    is_limited = settings.max_ms is not None or settings.max_mb is not None
    if request.device_profile is None:
        if is_limited:
            find_format(settings.format).require_modules()
        return None
    if not is_limited:
        raise ConfigError("A device profile needs a limit.", "Set one with --max-ms or --max-mb.")
    return read_profile(request.device_profile)


def _config(request: SearchRequest, folder: Path) -> Path | None:
    """Return the configuration file to use: the given one, or else the study's study.toml if it exists."""
    own = folder / "study.toml"
    return request.config or (own if own.is_file() else None)
