"""Measure what backbones, or the networks of a study, cost on this machine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from autotune.backbones.recommended import with_recommended
from autotune.backbones.registry import build_stages, discover
from autotune.backbones.weights import find_weights
from autotune.errors import StudyError
from autotune.formats.cost import DeviceProfile, this_device
from autotune.formats.measure import measure_cost
from autotune.formats.table import ONNX, find_format
from autotune.search.candidates import default_backbones, fixed_names, sizes_for
from autotune.search.settings import read_settings
from autotune.study.storage.record import open_record
from autotune.study.summary import find_study

LARGE = 10_000  # pixels of a picture's side: no size is reduced for small pictures


def measure_backbones(names: list[str] | None, pixels: list[int | str] | None, plugins: tuple[Path, ...],
                      format: str, say: Callable[[str], None]) -> DeviceProfile:  # fmt: skip
    """Measure backbones on this machine. names: None for those with installed weights; pixels: None for their own.

    Raises AutotuneError for an unknown name or size, and if a network cannot be written or run.
    """
    space = read_settings(None, {"backbone": names, "pixels": pixels}).space
    registry = discover(plugins)
    asked = [registry.find(name) for name in with_recommended(fixed_names(space.backbone), "cpu")]
    costs = []
    for one in asked or [one for one in default_backbones(registry, LARGE) if find_weights(one, None).installed]:
        chain = build_stages(one, pretrained=False)
        for size in sizes_for(one, space.pixels, LARGE):
            say(f"Measuring {one.name} at {size} pixels")
            costs.append(measure_cost(one, chain, size, find_format(format)))
    return DeviceProfile(this_device(), tuple(costs))


def measure_study(
    name: str, plugins: tuple[Path, ...], say: Callable[[str], None], format: str = ONNX.name
) -> DeviceProfile:
    """Measure the networks of a study on this machine, and keep their costs in its record, where the report finds them.

    Raises StudyError if it has not started, BundleError if a network cannot be written or run.
    """
    folder = find_study(name)
    find_format(format).require_modules()
    registry = discover(plugins)
    with open_record(folder) as record:
        backbones = record.facts().backbones
        if not backbones:
            raise StudyError(f"Study {folder.name} has no networks yet.", "Wait until its first trial has started.")
        costs = []
        for one in backbones.values():
            chain = build_stages(registry.find(one.name), pretrained=False)
            for pixels in one.pixels:
                say(f"Measuring {one.name} at {pixels} pixels")
                costs.append(measure_cost(registry.find(one.name), chain, pixels, find_format(format)))
        profile = DeviceProfile(this_device(), tuple(costs))
        record.keep_facts(costs=profile)
    return profile
