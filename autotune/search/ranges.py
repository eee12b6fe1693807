"""What a hyperparameter may be: a fixed value, a choice, or an interval."""

from __future__ import annotations

from dataclasses import dataclass

from autotune.training.params import Value


@dataclass(frozen=True)
class Fixed:
    value: Value


@dataclass(frozen=True)
class Choice:
    values: tuple[Value, ...]


@dataclass(frozen=True)
class Range:
    """From low to high, both included. log: sampled uniformly in the logarithm. step: the grid's, from low on."""

    low: float
    high: float
    log: bool = False
    step: float | None = None


Domain = Fixed | Choice | Range
