"""The optimizers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    pass


OPTIMIZERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "adamw": (torch.optim.AdamW, {"fused": True}),
    "adam": (torch.optim.Adam, {"fused": True}),
    "sgd": (torch.optim.SGD, {"momentum": 0.9, "fused": True}),
    "rmsprop": (torch.optim.RMSprop, {}),
    "adagrad": (torch.optim.Adagrad, {}),
    "adadelta": (torch.optim.Adadelta, {}),
}


# What multiplies AdamW's default bounds to suit another optimizer: the ratios of the rates they are commonly used at.
LEARNING_RATE_FACTORS = {"adamw": 1.0, "adam": 1.0, "rmsprop": 1.0, "sgd": 10.0, "adagrad": 10.0, "adadelta": 1000.0}
