"""Compare rules of early stopping on the same trials: the gap rule, plain patience, and no rule.

    python benchmarks/gap.py [--table] KEEP.jsonl PHOTOS...

For each folder and seed the pictures are split, and the same trials are drawn at random from the default space. Each
trial runs all its epochs once and is measured after every epoch on a training sample, the validation set and the test
set. A rule only truncates a curve, so the epochs and the winner under each rule are computed from the same curves. As a
check, the first trial of a draw is trained again under the gap rule and must stop at the computed epoch. Results are
appended to KEEP.jsonl; a second run measures only missing ones. Then the tables are printed; with --table, of existing
results.
"""

import json
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch
from machine import line
from scipy import stats

from autotune.backbones.registry import discover
from autotune.cache.pixels import fill_pixels, pixel_rows
from autotune.data.catalog import Catalog, read_catalog
from autotune.data.split import TEST, TRAIN, VALIDATION, Split, split_catalog
from autotune.search.candidates import select_backbones
from autotune.search.plan import Plan, build_context, resolve_settings
from autotune.search.ranges import Fixed
from autotune.search.settings import SearchSpace, Settings
from autotune.search.space import suggest
from autotune.training import trial as training
from autotune.training.context import LoadedBackbones, TrialContext
from autotune.training.gap import best_index, is_better, stops_on_gap
from autotune.training.lightning.recorder import EpochRecorder
from autotune.training.lightning.trainer import quiet_lightning
from autotune.training.malloc import keep_freed_memory
from autotune.training.metrics import predicted_classes
from autotune.training.outcome import Epoch
from autotune.training.params import Params
from autotune.training.probe import probe_file_name
from autotune.training.trial import run_probe, run_trial

SEEDS, TRIALS, EPOCHS, SIZE = range(3), 8, 20, 96  # 20 epochs, as in the write-up that introduced the rule
VALIDATION_SHARE, TEST_SHARE = 0.1, 0.3  # a larger test set than in a study, to measure small differences
Rule = Callable[[Sequence[Epoch], int], bool]


def gap(most: float, patience: int) -> Rule:
    return lambda rows, cycle: stops_on_gap(rows, patience, cycle, most)


def stalled(patience: int) -> Rule:
    return lambda rows, cycle: stops_on_gap(rows, patience, cycle, -2.0)  # every gap is larger


def by_the_metric(rows: Sequence[Epoch], cycle: int) -> bool:
    """The rule before: at an equal metric, a lower cross-entropy did not improve, and any growth of the gap counted."""
    window = max(5, cycle)
    if len(rows) <= window:
        return False
    is_stalled = max(row.validation for row in rows[-window:]) <= max(row.validation for row in rows[:-window])
    return is_stalled and (rows[-1].gap > 0.05 or rows[-1].gap > max(rows[-1 - window].gap, 0.0))


RULES: dict[str, Rule] = {
    "none": lambda rows, cycle: False,
    "patience 5": stalled(5),
    "gap 0.05, patience 5": gap(0.05, 5),
    "gap 0.1, patience 5": gap(0.1, 5),
    **{f"gap 0.05, patience {patience}": gap(0.05, patience) for patience in (3, 4, 6, 8)},
    "as before, patience 5": by_the_metric,
}
MAIN = tuple(RULES)[:3]


class Listener:
    """A reporter that keeps all epochs."""

    def __init__(self) -> None:
        self.rows: list[Epoch] = []

    def epoch(self, row: Epoch) -> None:
        self.rows.append(row)

    def check_time(self) -> None: ...
    def cache_progress(self, *_: int) -> None: ...


class Watched(EpochRecorder):
    """Also measures the test pictures, which follow the validation pictures, and hides them from the trial."""

    n_validation = 0
    tests: list[float] = []  # noqa: RUF012  # one trial at a time

    def on_validation_epoch_end(self, trainer: Any, module: Any) -> None:
        held_out = [out for out in self._outputs if out[0] == 0]
        logits, labels = torch.cat([out[1] for out in held_out]), torch.cat([out[2] for out in held_out])
        n = self.n_validation
        self.tests.append(float(np.mean(predicted_classes(logits[n:]) == labels[n:].numpy())))
        self._outputs = [(0, logits[:n], labels[:n]), *(out for out in self._outputs if out[0] == 1)]
        super().on_validation_epoch_end(trainer, module)


class Draw:
    """One folder and seed: its split and the trials drawn for it."""

    def __init__(self, folder: Path, catalog: Catalog, seed: int) -> None:
        free = tuple(replace(picture, part=None) for picture in catalog.pictures)
        parts = split_catalog(replace(catalog, pictures=free), seed, VALIDATION_SHARE, TEST_SHARE)
        asked = Settings(epochs=EPOCHS, seed=seed, space=SearchSpace(pixels=Fixed(SIZE)))
        self.chosen = select_backbones(asked, discover(), None, "cpu", parts.side, print)
        self.settings = resolve_settings(asked, parts, self.chosen)
        self.parts, self.n_validation = parts, len(parts.part(VALIDATION))
        for one in self.chosen.candidates:
            how, size = one.backbone.traits.interpolation, one.profiles[0].pixels
            fill_pixels(pixel_rows(size, how), folder, parts.pictures, how, lambda *_: None)

    def context(self, patience: int, parts: Split) -> TrialContext:
        settings = self.settings.model_copy(update={"patience": patience})
        cuts = {(one.backbone.name, one.profiles[0].pixels): one.cuts for one in self.chosen.candidates}
        return build_context(Plan(parts, settings, self.chosen, cuts))

    def params(self) -> list[Params]:
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=self.settings.seed))
        return [suggest(study.ask(), self.settings.space, self.chosen.options) for _ in range(TRIALS)]

    def with_test(self) -> Split:
        """Return the same split with the test pictures appended to the validation set."""
        order = {TRAIN: 0, VALIDATION: 1, TEST: 2}
        moved = sorted(self.parts.pictures, key=lambda p: order[str(p.part)])
        return replace(self.parts, pictures=tuple(replace(p, part=VALIDATION) if p.part == TEST else p for p in moved))


def trained(draw: Draw, params: list[Params], only: int | None, patience: int) -> list[tuple[list[Epoch], list[float]]]:
    """Train all trials, or one, with the gap rule; return their epochs and the test accuracy after each epoch."""
    found = []
    with tempfile.TemporaryDirectory() as place, quiet_lightning():
        context = draw.context(patience, draw.with_test())
        # The gap sample is that of the study, as large as the validation set without the test pictures.
        context = replace(context, gap_sample=draw.context(patience, draw.parts).gap_sample)
        backbones = LoadedBackbones(context)
        files: dict[str, bytes] = {}
        for one in draw.chosen.candidates:
            if not one.backbone.traits.from_scratch:
                name, pixels = one.backbone.name, one.profiles[0].pixels
                files[probe_file_name(name, pixels)] = run_probe(backbones, name, pixels, Listener()).head
        for number, each in enumerate(params):
            if only in (None, number):
                listener, Watched.tests, Watched.n_validation = Listener(), [], draw.n_validation
                run_trial(backbones, number, each, files, Path(place), listener)
                found.append((listener.rows, Watched.tests))
    return found


def measured(name: str, draw: Draw, seed: int) -> list[dict[str, Any]]:
    params = draw.params()
    curves = trained(draw, params, None, EPOCHS)
    again = trained(draw, params, 0, Settings().patience)[0][0]
    cycle = draw.settings.cycle_length
    assert len(again) == cut(curves[0][0], gap(Settings().gap, Settings().patience), cycle), (
        "the trial does not stop at the computed epoch"
    )
    counts = Counter(str(picture.part) for picture in draw.parts.pictures)
    return [
        {
            "set": name, "seed": seed, "number": number, "cycle": cycle, "params": each.recorded(),
            "pictures": dict(counts), "rows": [asdict(row) for row in rows], "tests": tests,
        }
        for number, (each, (rows, tests)) in enumerate(zip(params, curves, strict=True))
    ]  # fmt: skip


def cut(rows: Sequence[Epoch], rule: Rule, cycle: int) -> int:
    """Return the number of epochs after which a rule stops a trial."""
    return next((n for n in range(1, len(rows)) if rule(rows[:n], cycle)), len(rows))


class Curves:
    """The curves of one draw's trials. Under a rule, a trial is (number of epochs, best epoch, test accuracy there)."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.trials = [([Epoch(**row) for row in one["rows"]], one["tests"], one["cycle"]) for one in rows]

    def under(self, rule: Rule) -> list[tuple[int, Epoch, float]]:
        found = []
        for rows, tests, cycle in self.trials:
            epochs = cut(rows, rule, cycle)
            at = best_index(rows[:epochs])
            found.append((epochs, rows[at], tests[at]))
        return found

    def within(self, rule: Rule, budget: int) -> list[tuple[int, Epoch, float]]:
        """Return the first trials whose epochs fit the budget, at least one."""
        spent = 0
        kept: list[tuple[int, Epoch, float]] = []
        for one in self.under(rule):
            spent += one[0]
            if kept and spent > budget:
                break
            kept.append(one)
        return kept


def winner(trials: list[tuple[int, Epoch, float]]) -> tuple[float, float]:
    """Return the validation and test accuracy of the trial with the best validation."""
    first = trials[0]
    for one in trials[1:]:
        if is_better(one[1], first[1]):
            first = one
    return first[1].validation, first[2]


def spread(values: Sequence[float]) -> str:
    """Format a mean with its 95 % t interval, in points."""
    each = 100 * np.array(values)
    if len(each) < 2 or np.ptp(each) == 0:
        return f"{each.mean():+6.2f} (all equal)"
    low, high = stats.t.interval(0.95, len(each) - 1, each.mean(), stats.sem(each))
    return f"{each.mean():+6.2f} ({low:+.2f} to {high:+.2f})"


def show(draws: dict[tuple[str, int], Curves]) -> None:
    everything = {rule: [one.under(RULES[rule]) for one in draws.values()] for rule in RULES}
    heads = ("trials, validation", "trials, test", "winner, validation", "winner, test")
    print(f"\n{'rule':22}{'epochs':>8}  " + "".join(f"{head:>25}" for head in heads))
    for rule, found in everything.items():
        share = sum(one[0] for each in found for one in each) / sum(len(each) * EPOCHS for each in found)
        columns = [[], [], [], []]  # type: ignore[var-annotated]
        for each, full in zip(found, everything["none"], strict=True):
            columns[0].append(np.mean([a[1].validation - b[1].validation for a, b in zip(each, full, strict=True)]))
            columns[1].append(np.mean([a[2] - b[2] for a, b in zip(each, full, strict=True)]))
            for i in (0, 1):
                columns[2 + i].append(winner(each)[i] - winner(full)[i])
        print(f"{rule:22}{100 * share:7.0f}%  " + "".join(f"{spread(column):>25}" for column in columns))
    print("Epochs: share of the epochs without a rule. Other columns: difference from no rule in points, with the 95 %")
    print("interval over draws. Trials: mean over a draw. Winner: the trial with the best validation.")


def show_within(draws: dict[tuple[str, int], Curves]) -> None:
    print("\nThe winner if every rule has the epoch budget of the gap rule (differences from no rule, in points):")
    test: dict[str, list[float]] = defaultdict(list)
    n_trials: dict[str, list[int]] = defaultdict(list)
    for one in draws.values():
        budget = sum(each[0] for each in one.under(RULES[MAIN[2]]))
        for rule in MAIN:
            kept = one.within(RULES[rule], budget)
            n_trials[rule].append(len(kept))
            test[rule].append(winner(kept)[1])
    for rule in MAIN:
        against = [a - b for a, b in zip(test[rule], test["none"], strict=True)]
        many, accuracy = np.mean(n_trials[rule]), 100 * np.mean(test[rule])
        print(f"{rule:22} {many:5.1f} trials, test {accuracy:5.1f} %, {spread(against)}")


def show_sets(draws: dict[tuple[str, int], Curves]) -> None:
    print(f"\n{'pictures':12}{'rule':22}{'epochs':>8}{'validation':>12}{'test':>8}")
    for name in dict.fromkeys(name for name, _ in draws):
        for rule in MAIN:
            each = [one.under(RULES[rule]) for (found, _), one in draws.items() if found == name]
            share = np.mean([trial[0] for trials in each for trial in trials]) / EPOCHS
            values = 100 * np.mean([winner(trials) for trials in each], axis=0)
            print(f"{name:12}{rule:22}{100 * share:7.0f}%{values[0]:12.1f}{values[1]:8.1f}")
    print("Validation, test: accuracy of the winner in %, mean over the seeds.")


def measure(file: Path, folders: list[Path]) -> None:
    done = {(row["set"], row["seed"]) for row in kept(file)}
    training.EpochRecorder = Watched  # type: ignore[misc, attr-defined]
    for seed in SEEDS:
        for folder in folders:
            if (folder.name, seed) in done:
                continue
            draw = Draw(folder, read_catalog(folder), seed)
            with file.open("a") as out:
                out.writelines(json.dumps(row) + "\n" for row in measured(folder.name, draw, seed))


def kept(file: Path) -> list[dict[str, Any]]:
    return [json.loads(text) for text in file.read_text().splitlines()] if file.exists() else []


def main() -> None:
    keep_freed_memory()
    is_table = sys.argv[1] == "--table"
    file, *folders = map(Path, sys.argv[1 + is_table :])
    if not is_table:
        measure(file, folders)
    grouped: dict[tuple[str, int], list[dict[str, Any]]] = defaultdict(list)
    for row in kept(file):
        grouped[row["set"], row["seed"]].append(row)
    draws = {key: Curves(rows) for key, rows in grouped.items()}
    print(line(f"{len(draws)} draws of {TRIALS} trials"))
    print(f"{EPOCHS} epochs, {SIZE} pixels, the default space, trials drawn at random; accuracy")
    for name in dict.fromkeys(name for name, _ in grouped):
        counts = grouped[name, next(seed for found, seed in grouped if found == name)][0]["pictures"]
        print(f"{name}: " + ", ".join(f"{n} {part}" for part, n in sorted(counts.items())))
    show(draws)
    show_within(draws)
    show_sets(draws)


if __name__ == "__main__":
    main()
