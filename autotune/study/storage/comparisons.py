"""Comparisons of the models of two studies, as rows of the records of both."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from autotune.text import percent, plural

Interval = tuple[float, float]


@dataclass(frozen=True)
class Score:
    """A metric on n pictures, in [0, 1], with its 95 % interval. n_visits: of these pictures; 0: not known."""

    n: int
    value: float
    interval: Interval
    n_visits: int = 0

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Score:
        return cls(**{**plain, "interval": tuple(plain["interval"])})


@dataclass(frozen=True)
class PairedScore:
    """A metric of two models on the same n pictures. interval: the 95 % interval of value minus other."""

    n: int
    value: float
    other: float
    interval: Interval
    n_visits: int = 0

    @property
    def difference(self) -> float:
        return self.value - self.other

    def words(self, one: str, other: str) -> str:
        """Describe the scores. one, other: names of the studies."""
        low, high = (100 * limit for limit in self.interval)
        visits = f" in {plural(self.n_visits, 'visit')}" if self.n_visits else ""
        return (
            f"{one} {percent(self.value)}, {other} {percent(self.other)}; difference {100 * self.difference:+.1f} "
            f"percentage points (95 % interval {low:+.1f} to {high:+.1f}, n = {self.n}{visits})."
        )

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> PairedScore:
        return cls(**{**plain, "interval": tuple(plain["interval"])})


@dataclass(frozen=True)
class ComparisonRow:
    """The final model of a study against that of the earlier study that it followed.

    later, earlier: names of the studies. model: the row of the final model in this study's record; other_model: in the
    other's; None: the best trial's own network. added: new pictures of the later study, by class and part. gone:
    pictures of the earlier study that the later one does not have. fresh: the earlier model on the new pictures outside
    the test set; None without any. test: the later model and the earlier one on the later study's test pictures.
    """

    later: str
    earlier: str
    metric: str
    model: int | None
    other_model: int | None
    added: Mapping[str, Mapping[str, int]]
    gone: int
    fresh: Score | None
    test: PairedScore
    finished: str = ""
    id: int = 0

    @property
    def n_added(self) -> int:
        return sum(sum(parts.values()) for parts in self.added.values())

    @property
    def lines(self) -> list[str]:
        """Describe the comparison."""
        found = f"All test pictures of {self.later}: {self.test.words(self.later, self.earlier)}"
        if self.fresh is None:
            return [found]
        low, high = self.fresh.interval
        return [
            f"The model of study {self.earlier} on {plural(self.fresh.n, 'new picture')} of {self.later}, outside its "
            f"test set: {percent(self.fresh.value)} (95 % interval {percent(low)} to {percent(high)}).",
            found,
        ]

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> ComparisonRow:
        fresh = plain["fresh"]
        test = PairedScore.from_json(plain["test"])
        return cls(**{**plain, "fresh": Score.from_json(fresh) if fresh else None, "test": test})

    def to_json(self) -> dict[str, Any]:
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self)))  # lists for tuples
        return plain
