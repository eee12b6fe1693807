"""Finished: a study that has a winner, opened again to be tested once more, exported or asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from autotune import evaluate, plan, plugins, samples, space, splits
from autotune.errors import StudyError
from autotune.files import cache_folder
from autotune.identity import recorded_arms, recorded_cuts, refuse_another_split, refuse_other_weights
from autotune.lesson import Backbones, Lesson
from autotune.listener import StudyListener
from autotune.means import Means
from autotune.record import COMPLETE, Record, locked, opened
from autotune.space import Settings
from autotune.splits import MANIFEST, Split
from autotune.summary import find, status
from autotune.trained import Trained, restored


@dataclass(frozen=True)
class Finished:
    """One complete trial of a study, with all that is needed to put its network together again."""

    folder: Path
    book: Record
    trial: dict[str, Any]
    root: Path
    parts: Split
    settings: Settings
    lesson: Lesson

    @cached_property
    def backbones(self) -> Backbones:
        return Backbones(self.lesson)

    @cached_property
    def trained(self) -> Trained:
        return restored(self.backbones, self.trial)


def reopened(folder: Path, book: Record, means: Means, listener: StudyListener, number: int | None = None) -> Finished:
    """The winner of a study, or another complete trial by its number.

    Raises StudyError where there is none, or where manifest or backbone are not those of the study.
    """
    trial = _complete(folder, book, number)
    settings = space.recorded(book.fact("definition"))
    parts = Split(tuple(book.fact("classes")), splits.read(folder / MANIFEST), (), {})
    refuse_another_split(book, folder, parts)
    name = trial["params"]["backbone"]
    only = {name: (recorded_arms(book) or {})[name]}
    catalogue, device = plugins.catalogue(means.plugins), plan.device(means.device)
    chosen = plan.make(settings, catalogue, means.weights, device, parts.side, listener.say, only)
    refuse_other_weights(book, chosen)
    settings = plan.decided(settings, parts)
    cuts = recorded_cuts(book) or plan.banked(chosen, settings, parts)
    lesson = plan.lesson(settings, parts, chosen, 1, folder, cuts)
    return Finished(folder, book, trial, _root(book), parts, settings, lesson)


def look_again(name: str, means: Means, listener: StudyListener) -> dict[str, Any]:
    """Look at the test pictures once more with the winner; the record counts it."""
    folder = find(name)
    with locked(folder), opened(folder) as book:
        one = reopened(folder, book, means, listener)
        evaluate.look(one.backbones, book, one.root, one.parts, one.trial, listener.progress("Test"))
    listener.close()
    return status(str(folder))


def _complete(folder: Path, book: Record, number: int | None) -> dict[str, Any]:
    best = book.best()
    if best is None:
        raise StudyError(f"Study {folder.name} has no complete trial.", "Let it finish one: the same search again.")
    if number is None:
        return best
    trial = book.trial(number)
    if not trial or trial["state"] != COMPLETE:
        what = f"is {trial['state']}, so it left no model" if trial else "is not there"
        raise StudyError(f"Trial {number} of study {folder.name} {what}.", f"Choose from: {_numbers(book.trials())}.")
    return trial


def _numbers(rows: Sequence[dict[str, Any]]) -> str:
    """The complete trials by number, the best first."""
    found = [str(row["number"]) for row in rows if row["state"] == COMPLETE]
    return ", ".join(found[:10]) + (", ..." if len(found) > 10 else "")


def _root(book: Record) -> Path:
    """Where the pictures are. The built-in sample is written anew if the cache was cleared."""
    root = Path(book.fact("root"))
    if root == samples.digits_folder(cache_folder()):
        samples.digits(cache_folder())
    return root
