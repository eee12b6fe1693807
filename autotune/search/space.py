"""A trial's draw from the search space."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from optuna.trial import Trial

from autotune.search.ranges import Choice, Fixed, Range, Ranged
from autotune.search.settings import SearchSpace
from autotune.training.optimizers import find_optimizer
from autotune.training.params import Params, Value


@dataclass(frozen=True)
class BackboneOptions:
    """A backbone as this study may use it: at these sizes, with this many last stages trained."""

    backbone: str
    pixels: tuple[int, ...]
    depths: tuple[int, ...]


def suggest(trial: Trial, space: SearchSpace, arms: tuple[BackboneOptions, ...]) -> Params:
    """Draw one trial's Params. Depth and pixels have a name for each backbone, since their ranges differ."""
    names = [arm.backbone for arm in arms]
    backbone = str(_draw(trial, "backbone", _of(names)))
    arm = arms[names.index(backbone)]
    optimizer = str(_draw(trial, "optimizer", space.optimizer))
    rate = find_optimizer(optimizer).learning_rate_factor
    high = float(_draw(trial, "lr_high", space.lr_high or Range(1e-4, 1e-2, log=True)))
    low = float(_draw(trial, "lr_low", space.lr_low or Range(1e-6, 1e-4, log=True)))
    high, low = high * (1 if space.lr_high else rate), low * (1 if space.lr_low else rate)
    return Params(
        backbone=backbone,
        depth=int(_draw(trial, f"depth[{backbone}]", _of(arm.depths))),
        pixels=int(_draw(trial, f"pixels[{backbone}]", _of(arm.pixels))),
        lr_low=min(low, high),
        lr_high=max(low, high),
        optimizer=optimizer,
        cycle=str(_draw(trial, "cycle", space.cycle)),
        augment=float(_draw(trial, "augment", space.augment)),
        class_weight=float(_draw(trial, "class_weight", space.class_weight or Fixed(0.0))),
        batch_size=int(_draw(trial, "batch_size", space.batch_size)),
        weight_decay=float(_draw(trial, "weight_decay", space.weight_decay)),
        dropout=float(_draw(trial, "dropout", space.dropout)),
        label_smoothing=float(_draw(trial, "label_smoothing", space.label_smoothing)),
        mixup=float(_draw(trial, "mixup", space.mixup)),
    )


def _of(values: tuple[int, ...] | list[str]) -> Ranged:
    """The plainest range that holds these values: one, a run of whole numbers, or a choice."""
    if len(values) == 1:
        return Fixed(values[0])
    if all(isinstance(v, int) for v in values) and list(values) == list(range(int(values[0]), int(values[-1]) + 1)):
        return Range(int(values[0]), int(values[-1]), step=1)
    return Choice(tuple(values))


def _draw(trial: Trial, name: str, ranged: Ranged) -> Value:
    if isinstance(ranged, Fixed):
        return ranged.value
    if isinstance(ranged, Choice):
        return trial.suggest_categorical(name, list(ranged.values))  # type: ignore[no-any-return, return-value]
    if ranged.step == 1 and isinstance(ranged.low, int):
        return trial.suggest_int(name, int(ranged.low), int(ranged.high))
    return trial.suggest_float(name, ranged.low, ranged.high, log=ranged.log, step=ranged.step)
