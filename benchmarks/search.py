"""Show how well the trials of finished studies are spent.

    python benchmarks/search.py STUDY...

A study is a folder with a record.db, for example WORK/cells/*/finals/studies/finals of selection.py. Three tables: how
many trials score lower than the linear probe on the validation set, by unfrozen stages and by the highest learning
rate; and after how many trials a study has reached 99 % of its best validation score.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from math import floor, log10
from pathlib import Path

import machine
import numpy as np

from autotune.study.storage.rows import TrialRow
from autotune.study.summary import study_status
from autotune.training.optimizers import find_optimizer

ENOUGH = 0.99


@dataclass(frozen=True)
class Study:
    """The trials of a study that have a score, by number. probe: the best validation score of its probes."""

    trials: tuple[TrialRow, ...]
    probe: float

    def leads(self) -> Iterable[tuple[TrialRow, float]]:
        """Return each trial with its lead over the probe."""
        return [(row, (row.value or 0.0) - self.probe) for row in self.trials]

    def n_needed(self) -> int:
        """Return the number of trials until the best score is at least 99 % of the final best score."""
        best = np.maximum.accumulate([row.value or 0.0 for row in self.trials])
        return int(np.argmax(best >= ENOUGH * best[-1])) + 1


def read_study(folder: Path) -> Study:
    found = study_status(str(folder))
    rows = sorted((row for row in found.leaderboard if row.value is not None), key=lambda row: row.number)
    return Study(tuple(rows), max(one.value for one in found.probes))


def depth(row: TrialRow) -> Hashable:
    return f"{row.params.depth} unfrozen stages"


def rate(row: TrialRow) -> Hashable:
    """Return the number of unfrozen stages and the highest learning rate in half decades, in units of AdamW's."""
    exponent = log10(row.params.lr_high / find_optimizer(row.params.optimizer).learning_rate_factor)
    low = floor(2 * exponent) / 2
    return f"{row.params.depth} unfrozen stages, {10**low:.0e} to {10 ** (low + 0.5):.0e}"


def show(studies: Iterable[Study], key: Callable[[TrialRow], Hashable]) -> None:
    groups: dict[Hashable, list[float]] = defaultdict(list)
    for study in studies:
        for row, lead in study.leads():
            groups[key(row)].append(lead)
    for name, leads in sorted(groups.items(), key=lambda item: str(item[0])):
        below = float(np.mean(np.array(leads) < 0))
        print(f"{name!s:38}{len(leads):7}{100 * below:10.1f} %{100 * float(np.median(leads)):+12.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("studies", nargs="+", type=Path, metavar="STUDY")
    studies = [read_study(folder) for folder in parser.parse_args().studies]
    print(machine.line(f"{len(studies)} studies"))
    print(f"{'trials':38}{'n':>7}{'below probe':>12}{'median lead':>12}, points")
    for key in (lambda _: "all", depth, rate):
        show(studies, key)
    needed = sorted(study.n_needed() for study in studies)
    print(f"Trials until {100 * ENOUGH:.0f} % of the best score: {needed}, median {np.median(needed):.0f}")


if __name__ == "__main__":
    main()
