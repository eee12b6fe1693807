"""Draw the training and the validation curve of the recipe, and say where the gap between them would stop each phase.

python studies/produce/gap.py STUDY [PLOT]. STUDY: a study made with study.toml. PLOT: an SVG file; default: gap.svg.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot as plt

from autotune.study.storage.record import open_record
from autotune.study.summary import find_study
from autotune.training.gap import first_stop
from autotune.training.metrics import smooth
from autotune.training.outcome import Epoch
from autotune.training.params import Phase

TRAIN, VALIDATION, STOP = "#0072b2", "#d55e00", "#555555"


def read(study: str) -> tuple[list[Epoch], tuple[Phase, ...], int, float]:
    """Return the recipe's epochs and phases, and the study's patience and largest gap."""
    with open_record(find_study(study)) as record:
        recipe = next(row for row in record.trials() if row.params.is_recipe)
        settings = record.facts().settings
        return record.curve(recipe.number), recipe.params.phases, settings["patience"], settings["gap"]


def stops(epochs: Sequence[Epoch], phases: Sequence[Phase], patience: int, gap: float) -> list[int | None]:
    """Return by phase the number of its epochs after which the gap stops it."""
    found, start = [], 0
    for phase in phases:
        found.append(first_stop(epochs[start : start + phase.epochs], patience, phase.cycle_epochs, gap))
        start += phase.epochs
    return found


def draw(epochs: Sequence[Epoch], phases: Sequence[Phase], stopped: Sequence[int | None], plot: Path) -> None:
    figure, axes = plt.subplots(figsize=(8, 3.2), layout="constrained")
    numbers = [row.number for row in epochs]
    train, validation = ([100 * getattr(row, name) for row in epochs] for name in ("train", "validation"))
    for values, colour, name in ((train, TRAIN, "training"), (validation, VALIDATION, "validation")):
        axes.plot(numbers, values, ".", color=colour, alpha=0.4)
        axes.plot(numbers, smooth(values), color=colour, label=f"{name}, smoothed")
    axes.fill_between(numbers, smooth(validation), smooth(train), color=STOP, alpha=0.15, label="gap")
    start = 0
    for number, (phase, stop) in enumerate(zip(phases, stopped, strict=True), start=1):
        if number > 1:
            axes.axvline(start + 0.5, color=STOP, lw=0.8)
        if stop:
            axes.axvline(
                start + stop, color=STOP, ls="--", label="the gap would stop the phase" if start == 0 else None
            )
        axes.annotate(f"phase {number}", (start + 1, axes.get_ylim()[0]), xytext=(0, 4), textcoords="offset points")
        start += phase.epochs
    axes.set(xlabel="epoch", ylabel="macro F1 in %")
    axes.legend(loc="lower right")
    figure.savefig(plot)


def main() -> None:
    study, plot = sys.argv[1], Path(sys.argv[2] if len(sys.argv) > 2 else "gap.svg")
    epochs, phases, patience, gap = read(study)
    stopped = stops(epochs, phases, patience, gap)
    for number, (phase, stop) in enumerate(zip(phases, stopped, strict=True), start=1):
        print(f"phase {number}: " + (f"stops after {stop} of {phase.epochs} epochs" if stop else "does not stop"))
    draw(epochs, phases, stopped, plot)


if __name__ == "__main__":
    main()
