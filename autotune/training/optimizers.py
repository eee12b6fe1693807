"""Optimizers that a trial can use. To add one, add an entry to OPTIMIZERS. Does not import torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from autotune.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass(frozen=True)
class Optimizer:
    """class_name: a class in torch.optim. arguments: its keyword arguments except learning rate and weight decay.

    learning_rate_factor: multiplies AdamW's default ranges of lr_low and lr_high, so that networks learn over the whole
    range (benchmarks/levers.txt).
    """

    class_name: str
    learning_rate_factor: float = 1.0
    arguments: Mapping[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        return f"factor {self.learning_rate_factor:g}"


# The order is that of the default search space: a sampler's draws depend on it.
OPTIMIZERS: dict[str, Optimizer] = {
    "adamw": Optimizer("AdamW", arguments={"fused": True}),
    "adam": Optimizer("Adam", arguments={"fused": True}),
    "rmsprop": Optimizer("RMSprop"),
    "sgd": Optimizer("SGD", learning_rate_factor=5.0, arguments={"momentum": 0.9, "fused": True}),
    "adagrad": Optimizer("Adagrad", learning_rate_factor=5.0),
    "adadelta": Optimizer("Adadelta", learning_rate_factor=500.0),
}


def find_optimizer(name: str) -> Optimizer:
    """Return the optimizer with this name. Raises ConfigError for an unknown name."""
    if name not in OPTIMIZERS:
        raise ConfigError(f"No optimizer named {name!r}.", did_you_mean(name, OPTIMIZERS))
    return OPTIMIZERS[name]


def build_optimizer(
    name: str, parameters: Iterable[nn.Parameter], learning_rate: float, weight_decay: float
) -> torch.optim.Optimizer:
    """Build the torch optimizer with this name. Raises ConfigError for an unknown name."""
    import torch

    found = find_optimizer(name)
    build = getattr(torch.optim, found.class_name)
    optimizer: torch.optim.Optimizer = build(parameters, lr=learning_rate, weight_decay=weight_decay, **found.arguments)
    return optimizer
