"""Domains of a hyperparameter: a fixed value, a choice, or a range."""

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
    """From low to high, inclusive. log: uniform in the logarithm. step: of the grid, which starts at low."""

    low: float
    high: float
    log: bool = False
    step: float | None = None


Domain = Fixed | Choice | Range
