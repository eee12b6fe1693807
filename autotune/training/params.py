"""Hyperparameters of one trial, and their description in words."""

from __future__ import annotations

from dataclasses import asdict, dataclass

Value = float | int | str


@dataclass(frozen=True)
class Params:
    """Hyperparameters of one trial. depth: unfrozen last stages. lr_low, lr_high: learning rates of the cycle.

    class_weight: c of w = (1 / frequency)^c. batch_size: pictures per step. mixup: alpha of the Beta distribution for
    mixing two pictures of a batch at the input of the unfrozen stages; 0: no mixup.
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

    def recorded(self) -> dict[str, Value]:
        """Return the hyperparameters as stored in the record: mixup only if it is not 0."""
        return {name: value for name, value in asdict(self).items() if name != "mixup" or value}


def describe(params: Params, label: str, stages: int, from_scratch: bool) -> str:
    """Describe hyperparameters in one line. label, stages, from_scratch: of the backbone."""
    if from_scratch:
        trained = "from scratch"
    else:
        unfrozen = "last" if params.depth == 1 else f"last {params.depth}"
        trained = f"{unfrozen} of {stages} stages unfrozen" if params.depth else "head only"
    rates = f"learning rate {params.lr_low:.1e} to {params.lr_high:.1e} ({params.cycle})"
    augment = f"augmentation strength {params.augment:g}" if params.augment else "no augmentation"
    return (
        f"{label}, {trained}, {params.pixels} pixels, {params.optimizer}, {rates}, {augment}, batch {params.batch_size}"
    )
