"""Sampling one trial's Params from the search space."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from autotune.search.ranges import Choice, Domain, Fixed, Range
from autotune.training.optimizers import find_optimizer
from autotune.training.params import Params, Value

if TYPE_CHECKING:
    from optuna.trial import Trial

    from autotune.search.settings import SearchSpace


SCRATCH_FACTOR, HEAD_FACTOR, TAIL_FACTOR = 2.0, 8.0, 0.3  # of the default range of lr_high; benchmarks/levers.txt
LR_LOW, LR_HIGH = Range(1e-6, 1e-4, log=True), Range(3e-4, 5e-3, log=True)  # the default ranges, before the factors


@dataclass(frozen=True)
class BackboneOptions:
    """A backbone with its sizes and depths in this study."""

    backbone: str
    pixels: tuple[int, ...]
    depths: tuple[int, ...]
    from_scratch: bool = False


def suggest(
    trial: Trial, space: SearchSpace, arms: tuple[BackboneOptions, ...], seed: Callable[[str], None] | None = None
) -> Params:
    """Sample one trial's Params. Depth and pixels have one name per backbone, because their ranges differ.

    seed: called with the name of a hyperparameter before it is drawn.
    """

    def draw(name: str, domain: Domain) -> Value:
        if seed:
            seed(name)
        return _suggest_value(trial, name, domain)

    names = [arm.backbone for arm in arms]
    backbone = str(draw("backbone", _domain_of(names)))
    arm = arms[names.index(backbone)]
    optimizer = str(draw("optimizer", space.optimizer))
    depth = int(draw(f"depth[{backbone}]", _domain_of(arm.depths)))
    factor = find_optimizer(optimizer).learning_rate_factor
    high = float(draw("lr_high", space.lr_high or LR_HIGH))
    low = float(draw("lr_low", space.lr_low or LR_LOW))
    high *= 1 if space.lr_high else factor * depth_factor(arm, depth)
    low *= 1 if space.lr_low else factor
    return Params(
        backbone=backbone,
        depth=depth,
        pixels=int(draw(f"pixels[{backbone}]", _domain_of(arm.pixels))),
        lr_low=min(low, high),
        lr_high=max(low, high),
        optimizer=optimizer,
        cycle=str(draw("cycle", space.cycle)),
        augment=float(draw("augment", space.augment)),
        class_weight=float(draw("class_weight", space.class_weight or Fixed(0.0))),
        batch_size=int(draw("batch_size", space.batch_size)),
        weight_decay=float(draw("weight_decay", space.weight_decay)),
        dropout=float(draw("dropout", space.dropout)),
        label_smoothing=float(draw("label_smoothing", space.label_smoothing)),
        mixup=float(draw("mixup", space.mixup)),
        hidden=int(draw("hidden", space.hidden)),
        n_phases=1 if arm.from_scratch else int(draw("phases", space.phases)),
    )


def depth_factor(arm: BackboneOptions, depth: int) -> float:
    """Return the factor of the default range of lr_high: a new head needs higher ones, pretrained stages lower."""
    if arm.from_scratch:
        return SCRATCH_FACTOR
    return TAIL_FACTOR if depth else HEAD_FACTOR


def _domain_of(values: Sequence[int] | Sequence[str]) -> Domain:
    """Return the simplest domain of these values: fixed, a range of whole numbers, or a choice."""
    if len(values) == 1:
        return Fixed(values[0])
    if all(isinstance(v, int) for v in values) and list(values) == list(range(int(values[0]), int(values[-1]) + 1)):
        return Range(int(values[0]), int(values[-1]), step=1)
    return Choice(tuple(values))


def _suggest_value(trial: Trial, name: str, domain: Domain) -> Value:
    if isinstance(domain, Fixed):
        return domain.value
    if isinstance(domain, Choice):
        return trial.suggest_categorical(name, list(domain.values))  # type: ignore[no-any-return, return-value]
    if domain.step == 1 and isinstance(domain.low, int):
        return trial.suggest_int(name, int(domain.low), int(domain.high))
    return trial.suggest_float(name, domain.low, domain.high, log=domain.log, step=domain.step)
