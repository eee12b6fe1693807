"""What reading stores on the way, because the study will most likely want it."""

from __future__ import annotations

from pathlib import Path

from autotune.backbones.registry import Registry
from autotune.backbones.weights import find_weights
from autotune.search.candidates import _by_default, fixed_names, sizes_for
from autotune.search.settings import Settings


def likely_pixels(settings: Settings, registry: Registry, folder: Path | None, side: int) -> list[tuple[int, str]]:
    """The sizes and interpolations that `make` will most likely want, told from names and weights' places alone."""
    asked = fixed_names(settings.space.backbone)
    wanted = [registry.find(name) for name in asked] if asked else _by_default(registry, side)
    entries = [entry for entry in wanted if asked or find_weights(entry, folder).at_hand]
    return sorted(
        {(size, e.traits.interpolation) for e in entries for size in sizes_for(e, settings.space.pixels, side)}
    )
