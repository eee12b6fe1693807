"""Scores against costs: which trials are worth their milliseconds and megabytes, and which is the fastest good one."""

from __future__ import annotations

from dataclasses import dataclass

from autotune.formats.cost import DeviceProfile, NetworkCost
from autotune.study.storage.rows import COMPLETE, TrialRow
from autotune.study.summary import Summary
from autotune.text import percent
from autotune.training.metrics import wilson_interval


@dataclass(frozen=True)
class PricedTrial:
    """A complete trial and its cost. interval: of its score, 95 %; that of a share, also for other metrics.

    is_front: no other trial is as good, as fast and as small, and better in one of the three.
    """

    row: TrialRow
    interval: tuple[float, float]
    milliseconds: float
    megabytes: float
    is_front: bool = False

    @property
    def value(self) -> float:
        return self.row.value or 0.0

    def dominates(self, other: PricedTrial) -> bool:
        own, others = ((-one.value, one.milliseconds, one.megabytes) for one in (self, other))
        return own != others and all(a <= b for a, b in zip(own, others, strict=True))


@dataclass(frozen=True)
class Front:
    """The complete trials of a study with their costs on a device, the best first. n: validation pictures."""

    device: str
    format: str
    n: int
    trials: tuple[PricedTrial, ...]

    @property
    def best(self) -> PricedTrial:
        return self.trials[0]

    @property
    def is_flat(self) -> bool:
        """Whether all trials cost the same."""
        return len({(one.milliseconds, one.megabytes) for one in self.trials}) == 1

    @property
    def standard_error(self) -> float:
        """Of the best score, as a share of n pictures."""
        share = self.best.value
        return float((share * (1 - share) / self.n) ** 0.5)

    @property
    def fastest(self) -> PricedTrial:
        """The fastest trial within one standard error of the best (Breiman et al. 1984); the better of equally fast."""
        least = self.best.value - self.standard_error
        return min((one for one in self.trials if one.value >= least), key=lambda one: (one.milliseconds, one.row.rank))

    @property
    def words(self) -> str:
        """The fastest and the best in a sentence."""
        one, best = self.fastest, self.best
        return (
            f"The fastest within one standard error ({100 * self.standard_error:.1f} points) of the best: "
            f"{one.row.title}, {percent(one.value)} and {one.milliseconds:.1f} ms; the best: {best.row.title}, "
            f"{percent(best.value)} and {best.milliseconds:.1f} ms ({self.format}, {self.device})."
        )

    @property
    def front(self) -> tuple[PricedTrial, ...]:
        """Those that no other trial beats, the fastest first."""
        return tuple(sorted((one for one in self.trials if one.is_front), key=lambda one: one.milliseconds))


def find_front(summary: Summary, costs: DeviceProfile | None) -> Front | None:
    """Return the complete trials with their costs; None if those of a network are not known."""
    complete = [row for row in summary.leaderboard if row.state == COMPLETE and row.value is not None]
    if costs is None or not complete:
        return None
    known: dict[tuple[str, int], NetworkCost] = {(one.backbone, one.pixels): one for one in costs.costs}
    if any((row.params.backbone, row.params.pixels) not in known for row in complete):
        return None
    n, n_labels = summary.pictures["validation"], len(summary.classes)
    trials = []
    for row in complete:
        cost = known[row.params.backbone, row.params.pixels]
        interval = wilson_interval(round((row.value or 0.0) * n), n)
        trials.append(PricedTrial(row, interval, cost.milliseconds, cost.megabytes(n_labels)))
    marked = (PricedTrial(**{**vars(one), "is_front": not any(x.dominates(one) for x in trials)}) for one in trials)
    return Front(costs.device, costs.costs[0].format, n, tuple(marked))
