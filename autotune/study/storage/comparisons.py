"""Comparisons of the models of two studies, as rows of the records of both."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
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
    """A metric of two models, value and other, in [0, 1], on the same n pictures. interval: the 95 % interval of value
    minus other. n_visits: as in Score.
    """

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
        return (
            f"{one} {percent(self.value)}, {other} {percent(self.other)}; {one} minus {other}: "
            f"{100 * self.difference:+.1f} percentage points (95 % interval {low:+.1f} to {high:+.1f}, "
            f"n = {self.n}{of_visits(self)})."
        )

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> PairedScore:
        return cls(**{**plain, "interval": tuple(plain["interval"])})


@dataclass(frozen=True)
class ComparisonRow:
    """The final model of a study against that of the earlier study that it followed.

    later, earlier: folders of the studies. later_model, earlier_model: the final models, by their numbers in the
    records of the studies; None: the best trial's own network. added: new pictures of the later study, by class and
    part. gone: pictures of the earlier study that the later one does not have. unknown: pictures of classes that the
    earlier study does not know, which are left out. fresh: the earlier model on the new
    pictures outside the test set; None without any. test: the later model and the earlier one on the later study's test
    pictures.
    """

    later: str
    earlier: str
    metric: str
    later_model: int | None
    earlier_model: int | None
    added: Mapping[str, Mapping[str, int]]
    gone: int
    unknown: int
    fresh: Score | None
    test: PairedScore
    finished: str = ""
    id: int = 0

    @property
    def models(self) -> tuple[str, int | None, str, int | None]:
        """What identifies the two models."""
        return self.later, self.later_model, self.earlier, self.earlier_model

    def is_of(self, later: Path, later_model: int | None) -> bool:
        """Return whether the later model is this one. later: the folder of its study, which may have been moved."""
        return (Path(self.later).name, self.later_model) == (later.name, later_model)

    def concerns(self, folder: Path, model: int | None) -> bool:
        """Return whether one of the two models is this one. folder: of its study, which may have been moved."""
        is_earlier = (Path(self.earlier).name, self.earlier_model) == (folder.name, model)
        return is_earlier or self.is_of(folder, model)

    @property
    def lines(self) -> list[str]:
        """Describe the comparison."""
        later, earlier = distinct_names(Path(self.later), Path(self.earlier))
        found = f"All test pictures of {later}: {self.test.words(later, earlier)}"
        if self.unknown:
            found += f" Left out: {plural(self.unknown, 'picture')} of classes that {earlier} does not know."
        if self.fresh is None:
            return [found]
        low, high = self.fresh.interval
        return [
            f"The model of study {earlier} on {plural(self.fresh.n, 'new picture')} of {later}, outside its test set: "
            f"{percent(self.fresh.value)} (95 % interval {percent(low)} to {percent(high)}{of_visits(self.fresh)}).",
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


def of_visits(found: Score | PairedScore) -> str:
    return f" in {plural(found.n_visits, 'visit')}" if found.n_visits else ""


def distinct_names(one: Path, other: Path) -> tuple[str, str]:
    """Return the names of two studies; their folders if the names are the same."""
    return (str(one), str(other)) if one.name == other.name else (one.name, other.name)
