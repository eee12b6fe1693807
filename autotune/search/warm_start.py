"""Warm start: first trials with hyperparameters that are known to work, within the ranges of the study."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from autotune.search.ranges import Choice, Fixed, Range
from autotune.search.space import depth_factor
from autotune.training.params import Value

if TYPE_CHECKING:
    from autotune.search.settings import SearchSpace
    from autotune.search.space import BackboneOptions

N_BACKBONES = 2


def first_trials(space: SearchSpace, arms: tuple[BackboneOptions, ...]) -> list[dict[str, Value]]:
    """Return the values to enqueue, by the names in `suggest`, for the best backbones. arms: best backbone first.

    A pretrained network is trained head only, then with its last one to three stages and the most stages unfrozen, at
    learning rates that served best with few pictures (benchmarks/levers.txt): for two stages as an average of networks,
    which the final model is, and not as a single one; a network from scratch is trained
    completely. Values outside the ranges are moved to the nearest limit.
    """
    common: dict[str, Value] = {"optimizer": "adamw", "batch_size": 32, "weight_decay": 1e-2, "dropout": 0.2}
    common |= {"lr_low": 1e-5, "label_smoothing": 0.0, "class_weight": 0.0, "cycle": "one-cycle"}
    found = []
    for arm in arms[:N_BACKBONES]:
        for depth in _depths(arm):
            own = _rate_and_augmentation(arm, depth)
            values: dict[str, Value] = {**common, **own, "backbone": arm.backbone}
            if not space.lr_high:  # then `suggest` multiplies it by this factor
                values["lr_high"] = own["lr_high"] / depth_factor(arm, depth)
            values |= {f"depth[{arm.backbone}]": depth, f"pixels[{arm.backbone}]": arm.pixels[0]}
            found.append((depth, _within(space, values)))
    return [values for _, values in sorted(found, key=lambda one: one[0])]  # cheapest first


def _depths(arm: BackboneOptions) -> Iterable[int]:
    return (depth for depth in arm.depths if depth <= 3 or depth == max(arm.depths))


def _rate_and_augmentation(arm: BackboneOptions, depth: int) -> dict[str, float]:
    if arm.from_scratch:
        return {"lr_high": 1e-3, "augment": 0.25}
    if depth == 0:
        return {"lr_high": 1e-2, "augment": 0.0}
    return {"lr_high": 1e-3 if depth <= 2 else 3e-4, "augment": 0.5}


def _within(space: SearchSpace, values: dict[str, Value]) -> dict[str, Value]:
    """Clamp numbers to their ranges. Omit fixed hyperparameters and choices that are not allowed."""
    kept: dict[str, Value] = {}
    for name, value in values.items():
        domain = getattr(space, name, None)
        if isinstance(domain, Fixed) or (isinstance(domain, Choice) and value not in domain.values):
            continue
        kept[name] = min(max(float(value), domain.low), domain.high) if isinstance(domain, Range) else value
    return kept
