"""The first trials, as an experienced practitioner would choose them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass

from autotune.search.ranges import Choice, Fixed, Range
from autotune.search.settings import SearchSpace
from autotune.search.space import BackboneOptions
from autotune.training.params import Value


def first_trials(space: SearchSpace, arms: tuple[BackboneOptions, ...]) -> list[dict[str, Value]]:
    """First trials, as old hands would try them, for the sampler's own names: the best backbones come first in arms.

    The head alone, then the last block at a low rate (both write-ups with a pretrained net did so); for a net from
    scratch, all of it at a common rate. What the user's ranges do not allow is moved to the nearest that they do.
    """
    common: dict[str, Value] = {"optimizer": "adamw", "batch_size": 32, "weight_decay": 1e-2, "dropout": 0.2}
    common |= {"label_smoothing": 0.0, "augment": 0.5, "class_weight": 0.0, "cycle": "one-cycle"}
    found = []
    for arm in arms[:2]:
        head = {"lr_low": 1e-5, "lr_high": 3e-3, "augment": 0.0}
        block = {"lr_low": 1e-5, "lr_high": 3e-4}
        whole = {"lr_low": 1e-5, "lr_high": 1e-3, "augment": 0.25}
        wanted = [(0, head), (1, block)] if 0 in arm.depths else [(arm.depths[0], whole)]
        for depth, rates in wanted:
            if depth not in arm.depths:
                continue
            own: dict[str, Value] = {**common, **rates, "backbone": arm.backbone}
            own |= {f"depth[{arm.backbone}]": depth, f"pixels[{arm.backbone}]": arm.pixels[0]}
            found.append((depth, _allowed(own, space)))
    return [recipe for _, recipe in sorted(found, key=lambda one: one[0])]  # what costs least first


def _allowed(own: dict[str, Value], space: SearchSpace) -> dict[str, Value]:
    """A recipe within the ranges: numbers are clamped, choices that are not offered and fixed values left out."""
    kept: dict[str, Value] = {}
    for name, value in own.items():
        ranged = getattr(space, name, None)
        if isinstance(ranged, Fixed) or (isinstance(ranged, Choice) and value not in ranged.values):
            continue
        kept[name] = min(max(float(value), ranged.low), ranged.high) if isinstance(ranged, Range) else value
    return kept
