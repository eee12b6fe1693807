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


def values_of(domain: Domain | None) -> list[Value]:
    """Return the values of a domain; of a range, the whole numbers in it."""
    if isinstance(domain, Fixed):
        return [domain.value]
    if isinstance(domain, Choice):
        return list(domain.values)
    return list(range(int(domain.low), int(domain.high) + 1)) if domain else []
