"""What a network costs on a device, and the profile of a device. Importing this module does not import torch."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from autotune.errors import ConfigError
from autotune.files import write_whole

VERSION = 1  # of a device profile; other versions are rejected
N_LABELS = 2  # of the head that is measured; each further label adds `label_bytes`


@dataclass(frozen=True)
class NetworkCost:
    """The cost of a backbone with a linear head at one size, in one format.

    milliseconds: median for one picture on one thread, without decoding. file_bytes: of the file with two labels.
    label_bytes: for each label.
    """

    backbone: str
    pixels: int
    format: str
    milliseconds: float
    file_bytes: int
    label_bytes: int

    def megabytes(self, n_labels: int) -> float:
        """Return the size of the file with a head for n labels."""
        return (self.file_bytes + self.label_bytes * (n_labels - N_LABELS)) / 1e6


@dataclass(frozen=True)
class DeviceProfile:
    """Costs on one device. device: its processor and system."""

    device: str
    costs: tuple[NetworkCost, ...]

    def find(self, backbone: str, pixels: int, format: str) -> NetworkCost | None:
        """Return the cost of a network; None if it was not measured."""
        asked = (backbone, pixels, format)
        return next((one for one in self.costs if (one.backbone, one.pixels, one.format) == asked), None)

    def write(self, file: Path) -> None:
        """Write a profile for `--device-profile`. Raises ConfigError if the file cannot be written."""
        plain = {"version": VERSION, "device": self.device, "costs": [asdict(one) for one in self.costs]}
        try:
            write_whole(file, json.dumps(plain, indent=2) + "\n")
        except OSError as error:
            raise ConfigError(f"{file} cannot be written: {error.strerror}.", "Choose another file.") from error


def read_profile(file: Path) -> DeviceProfile:
    """Read a profile that `autotune profile` wrote. Raises ConfigError if it is damaged, or of another version."""
    fix = f"Write it on the device with: autotune profile --out {file.name}"
    try:
        plain = json.loads(file.read_text(encoding="utf-8"))
        found = plain["version"]
        if found == VERSION:
            return profile_from_json(plain)
    except OSError as error:
        raise ConfigError(f"Device profile {file} cannot be read: {error.strerror}.", fix) from error
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{file} is not a device profile.", fix) from error
    raise ConfigError(f"Device profile {file} has version {found}; this version of autotune reads {VERSION}.", fix)


def profile_from_json(plain: Mapping[str, Any]) -> DeviceProfile:
    """Return a profile from a file or a record. Raises ValueError, KeyError or TypeError if it is none."""
    return DeviceProfile(str(plain["device"]), tuple(map(cost_from_json, plain["costs"])))


def cost_from_json(row: Mapping[str, Any]) -> NetworkCost:
    """Return a cost from a file. Raises ValueError or TypeError if it is none."""
    cost = NetworkCost(**row)
    if not (cost.milliseconds > 0 and cost.file_bytes > 0 and cost.label_bytes >= 0 and cost.pixels > 0):
        raise ValueError("a cost that no network has")
    return cost


def this_device() -> str:
    """Return the processor, its threads and the system of this machine."""
    name = platform.processor() or platform.machine()
    cores = Path("/proc/cpuinfo")
    if cores.is_file():
        lines = cores.read_text(encoding="utf-8", errors="replace").splitlines()
        name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), name)
    return f"{name}, {psutil.cpu_count()} threads, {platform.system()}"
