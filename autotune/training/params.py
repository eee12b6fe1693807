"""Hyperparameters of one trial, and their description in words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any

Value = float | int | str


@dataclass(frozen=True)
class Phase:
    """One phase of a recipe: some epochs with hyperparameters of its own, as in Params."""

    epochs: int
    cycle_epochs: int
    depth: int
    lr_low: float
    lr_high: float
    cycle: str
    augment: float
    class_weight: float
    optimizer: str
    batch_size: int
    weight_decay: float
    dropout: float
    label_smoothing: float


@dataclass(frozen=True)
class Params:
    """Hyperparameters of one trial. depth: unfrozen last stages. lr_low, lr_high: learning rates of the cycle.

    class_weight: c of w = (1 / frequency)^c. batch_size: pictures per step. mixup: alpha of the Beta distribution for
    mixing two pictures of a batch at the input of the unfrozen stages; 0: no mixup. hidden: width of a hidden layer of
    the head; 0: none. n_phases: 2 if the head is trained alone before the unfrozen stages are. phases: of a recipe,
    trained one after another on one network; then depth is the largest of them, and the others are those of the last
    phase.
    """

    backbone: str
    depth: int
    pixels: int
    lr_low: float
    lr_high: float
    cycle: str
    augment: float
    class_weight: float
    optimizer: str
    batch_size: int
    weight_decay: float
    dropout: float
    label_smoothing: float
    mixup: float = 0.0
    hidden: int = 0
    n_phases: int = 1
    phases: tuple[Phase, ...] = ()

    @property
    def is_recipe(self) -> bool:
        return bool(self.phases)

    @property
    def trains_head_first(self) -> bool:
        """Whether the head is trained alone before the unfrozen stages; not if none is."""
        return self.n_phases > 1 and self.depth > 0

    def recorded(self) -> dict[str, Any]:
        """Return the hyperparameters as stored in the record: those with a default here only if they have another."""
        defaults = {one.name: one.default for one in fields(self) if one.default is not MISSING}
        return {name: value for name, value in asdict(self).items() if name not in defaults or value != defaults[name]}

    def flat(self) -> dict[str, Value]:
        """Return the hyperparameters as numbers and words: of a recipe, one line for each phase."""
        if not self.phases:
            return self.recorded()
        lines = (", ".join(f"{name} {value}" for name, value in asdict(one).items()) for one in self.phases)
        own = {f"phase {number}": line for number, line in enumerate(lines, start=1)}
        return {"backbone": self.backbone, "pixels": self.pixels, "hidden": self.hidden, **own}

    @classmethod
    def from_record(cls, plain: Mapping[str, Any]) -> Params:
        """Return what `recorded` returned."""
        return cls(**{**plain, "phases": tuple(Phase(**one) for one in plain.get("phases", ()))})


def describe(params: Params, label: str, stages: int, from_scratch: bool) -> str:
    """Describe hyperparameters in one line. label, stages, from_scratch: of the backbone."""
    if params.phases:
        described = (f"{_described(one, stages, from_scratch)}, {one.epochs} epochs" for one in params.phases)
        phases = "; then ".join(described)
        return f"{label}, {params.pixels} pixels{_hidden(params)}: {phases}"
    trained, rest = _trained(params, stages, from_scratch), _rest(params)
    trained = f"head first, then {trained}" if params.trains_head_first and not from_scratch else trained
    return f"{label}, {trained}, {params.pixels} pixels{_hidden(params)}, {rest}"


def _hidden(params: Params) -> str:
    return f", hidden layer of {params.hidden}" if params.hidden else ""


def _described(one: Phase, stages: int, from_scratch: bool) -> str:
    return f"{_trained(one, stages, from_scratch)}, {_rest(one)}"


def _trained(one: Params | Phase, stages: int, from_scratch: bool) -> str:
    if from_scratch:
        return "from scratch"
    unfrozen = "last" if one.depth == 1 else f"last {one.depth}"
    return f"{unfrozen} of {stages} stages unfrozen" if one.depth else "head only"


def _rest(one: Params | Phase) -> str:
    rates = f"learning rate {one.lr_low:.1e} to {one.lr_high:.1e} ({one.cycle})"
    if one.lr_low == one.lr_high:
        rates = f"learning rate {one.lr_low:.1e}"
    augment = f"augmentation strength {one.augment:g}" if one.augment else "no augmentation"
    return f"{one.optimizer}, {rates}, {augment}, batch {one.batch_size}"
