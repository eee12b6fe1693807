"""Ranges: a fixed value, a choice, or an interval."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass

from autotune.training.params import Value


@dataclass(frozen=True)
class Fixed:
    value: Value


@dataclass(frozen=True)
class Choice:
    values: tuple[Value, ...]


@dataclass(frozen=True)
class Range:
    low: float
    high: float
    log: bool = False
    step: float | None = None


Ranged = Fixed | Choice | Range
