"""One trial's choices, and how they are worded."""

from __future__ import annotations

from dataclasses import asdict, dataclass

Value = float | int | str


@dataclass(frozen=True)
class Params:
    """One trial's choices. depth: last stages that train. lr_low, lr_high: the bounds of the cycle.

    class_weight: c of w = (1 / frequency)^c. batch_size: pictures per step. mixup: alpha of the Beta distribution that
    two pictures of a batch are mixed by, at the input of the tail; 0: not mixed.
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
        """As the record keeps them: mixup only where pictures are mixed."""
        return {name: value for name, value in asdict(self).items() if name != "mixup" or value}


def describe(params: Params, label: str, stages: int, from_scratch: bool) -> str:
    """A trial's choices in a line. label, stages, from_scratch: of its backbone."""
    if from_scratch:
        trained = "from scratch"
    else:
        trained = "head alone" if params.depth == 0 else f"last {params.depth} of {stages} stages"
    augment = f"augmentation {params.augment:g}" if params.augment else "no augmentation"
    return (
        f"{label}, {trained}, {params.pixels} pixels, {params.optimizer} {params.lr_low:.1e} to {params.lr_high:.1e} "
        f"{params.cycle}, {augment}, batch {params.batch_size}"
    )
