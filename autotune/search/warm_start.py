"""Warm start: first trials with hyperparameters that are known to work, within the ranges of the study."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from autotune.search.ranges import Choice, Fixed, Range
from autotune.search.space import LR_HIGH, LR_LOW, depth_factor
from autotune.training.optimizers import find_optimizer
from autotune.training.params import Params, Value

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


def repeated(space: SearchSpace, arms: Sequence[BackboneOptions], choices: Iterable[Params]) -> list[dict[str, Value]]:
    """Return the values to enqueue that repeat the choices of an earlier study, where its backbone is searched again.

    Values outside the ranges are moved to the nearest limit.
    """
    by_name = {arm.backbone: arm for arm in arms}
    return [_repeat(space, by_name[one.backbone], one) for one in choices if one.backbone in by_name]


def _repeat(space: SearchSpace, arm: BackboneOptions, one: Params) -> dict[str, Value]:
    """Return the values from which `suggest` makes these Params."""
    depth = min(arm.depths, key=lambda depth: abs(depth - one.depth))
    pixels = min(arm.pixels, key=lambda pixels: abs(pixels - one.pixels))
    factor = find_optimizer(one.optimizer).learning_rate_factor
    values: dict[str, Value] = {
        "backbone": arm.backbone,
        "optimizer": one.optimizer,
        f"depth[{arm.backbone}]": depth,
        f"pixels[{arm.backbone}]": pixels,
        "lr_high": one.lr_high if space.lr_high else _clamp(one.lr_high / factor / depth_factor(arm, depth), LR_HIGH),
        "lr_low": one.lr_low if space.lr_low else _clamp(one.lr_low / factor, LR_LOW),
        "phases": one.n_phases,
    }
    names = ("cycle", "augment", "class_weight", "batch_size", "weight_decay", "dropout", "label_smoothing", "mixup",
             "hidden")  # fmt: skip
    return _within(space, {**values, **{name: getattr(one, name) for name in names}})


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
        kept[name] = _clamp(float(value), domain) if isinstance(domain, Range) else value
    return kept


def _clamp(value: float, domain: Range) -> float:
    """Return the nearest value of a range."""
    inside = min(max(value, domain.low), domain.high)
    if not domain.step:
        return inside
    return min(domain.low + domain.step * round((inside - domain.low) / domain.step), domain.high)
