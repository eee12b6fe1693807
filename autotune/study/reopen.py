"""Reopen a finished trial to evaluate it again, export it or predict with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from autotune.backbones.registry import discover
from autotune.data import datasets
from autotune.data.split import Split
from autotune.errors import StudyError
from autotune.files import cache_folder
from autotune.search.candidates import select_backbones
from autotune.search.plan import build_context, make_plan, pick_device
from autotune.search.settings import Settings, settings_from_record
from autotune.study.checks import recorded_backbones, recorded_choices, recorded_split, refuse_other_weights
from autotune.study.evaluate import evaluate_winner
from autotune.study.finals.held_out import HeldOut, folds_of, held_out_of
from autotune.study.listener import StudyListener
from autotune.study.request import Resources
from autotune.study.storage.evaluations import Evaluation, LaterRow
from autotune.study.storage.files import StudyFiles
from autotune.study.storage.lock import lock_study
from autotune.study.storage.record import Record, open_record
from autotune.study.storage.rows import COMPLETE, TRIAL, Final, TrialRow
from autotune.study.summary import Summary, find_study, study_status
from autotune.text import plural
from autotune.training.context import LoadedBackbones, TrialContext
from autotune.training.restore import TrainedNetwork, network_from_checkpoint


@dataclass(frozen=True)
class FinishedTrial:
    """One complete trial of a study, with everything needed to restore its network.

    final: the final model, if its network is the one to restore; None: the trial's own.
    """

    folder: Path
    record: Record
    trial: TrialRow
    final: Final | None
    root: Path
    parts: Split
    settings: Settings
    context: TrialContext

    @cached_property
    def backbones(self) -> LoadedBackbones:
        return LoadedBackbones(self.context)

    @property
    def how(self) -> str:
        """The kind of this network, as in Final."""
        return self.final.how if self.final else TRIAL

    @cached_property
    def own(self) -> TrainedNetwork:
        """The network of the trial itself, which was not trained on the validation pictures."""
        return self._restored(str(self.trial.checkpoint))

    @cached_property
    def trained(self) -> TrainedNetwork:
        return self._restored(self.final.checkpoint if self.final else str(self.trial.checkpoint))

    @property
    def is_decided(self) -> bool:
        """Whether this is the final model or, in a study of an earlier version, a trial that was evaluated."""
        return self.final is not None or self.test is not None

    @property
    def test(self) -> Evaluation | None:
        """The latest evaluation of this network on the test set, or None."""
        return self.record.evaluation() if self.final else self.record.trial_evaluation(self.trial.number)

    @property
    def later(self) -> list[LaterRow]:
        """The evaluations of this network on later pictures."""
        return self.record.own_later() if self.final else self.record.trial_later(self.trial.number)

    @cached_property
    def held_out(self) -> HeldOut | None:
        """The predictions of the networks of the folds on the pictures held out from them; None without folds."""
        return held_out_of(self.final, self.record, self.folder, self.parts) if self.final else None

    def fold_networks(self) -> list[tuple[int, TrainedNetwork]]:
        """Return the networks of the final model's folds, each with the fold that it was not trained on."""
        if self.final is None:
            return []
        rows = [row for row in folds_of(self.record.folds(), self.final.trial) if row.fold in self.final.folds]
        return [(row.fold, self._restored(str(row.checkpoint))) for row in rows]

    @property
    def files(self) -> StudyFiles:
        return StudyFiles(self.folder, self.record)

    def _restored(self, path: str) -> TrainedNetwork:
        content = self.files.content(path)
        return network_from_checkpoint(self.backbones, self.trial.params, content, self.folder / path)


def reopen_trial(
    folder: Path, record: Record, resources: Resources, listener: StudyListener, number: int | None = None
) -> FinishedTrial:
    """Reopen the final model of a study (or else its best trial), or a complete trial by its number.

    Raises StudyError if it does not exist, or if the manifest or the backbone has changed.
    """
    trial = _complete(folder, record, number)
    final = record.final() if number is None else None
    settings = settings_from_record(record.facts().settings)
    parts = recorded_split(record, folder)
    name = trial.params.backbone
    only = {name: (recorded_backbones(record) or {})[name]}
    registry, device = discover(resources.plugins), pick_device(resources.device)
    chosen = select_backbones(settings, registry, resources.weights, device, parts.side, listener.say, only)
    refuse_other_weights(record, chosen)
    # The recipe may train a backbone that is not the one of this trial.
    plan = make_plan(settings.model_copy(update={"recipe": ()}), parts, chosen, chosen=recorded_choices(record))
    settings, context = plan.settings.model_copy(update={"recipe": settings.recipe}), build_context(plan)
    one = FinishedTrial(folder, record, trial, final, _root(record), parts, settings, context)
    if number is None and not one.is_decided:
        listener.say(
            f"Study {folder.name} has no final model yet: trial {trial.number}, the best so far, takes its place."
        )
    return one


def evaluate_again(name: str, resources: Resources, listener: StudyListener) -> Summary:
    """Evaluate the final model on the test set again. The record counts every evaluation."""
    folder = find_study(name)
    with lock_study(folder), open_record(folder) as record:
        _refuse_unfinished(record, folder.name)
        one = reopen_trial(folder, record, resources, listener)
        evaluate_winner(one.backbones, record, folder, one.root, one.parts, listener.progress("Test"))
    listener.close()
    return study_status(str(folder))


def _refuse_unfinished(record: Record, study: str) -> None:
    """Raise StudyError if the study has no model yet that the test set is for."""
    run = record.facts().run
    if record.final() is None and record.evaluation() is None and run:
        raise StudyError(
            f"Study {study} is not finished ({record.n_trials()} of {plural(run.asked, 'trial')}), and the test set is "
            "for its final model.",
            f"Run the search again to finish it, or use later pictures: autotune evaluate {study} --on LATER",
        )


def _complete(folder: Path, record: Record, number: int | None) -> TrialRow:
    winner = record.winner()
    if winner is None:
        raise StudyError(f"Study {folder.name} has no complete trial.", "Run the search again until one completes.")
    if number is None:
        return winner
    trial = record.trial(number)
    if not trial or trial.state != COMPLETE:
        what = f"is {trial.state}, so it has no model" if trial else "does not exist"
        raise StudyError(f"Trial {number} of study {folder.name} {what}.", f"Choose from: {_numbers(record.trials())}.")
    return trial


def _numbers(rows: Sequence[TrialRow]) -> str:
    """List the numbers of the complete trials, best first."""
    found = [str(row.number) for row in rows if row.state == COMPLETE]
    return ", ".join(found[:10]) + (", ..." if len(found) > 10 else "")


def _root(record: Record) -> Path:
    """Return the folder of the pictures. The built-in sample is written again if the cache was cleared."""
    root = Path(record.facts().root)
    if root == datasets.digits_folder(cache_folder()):
        datasets.write_digits(cache_folder())
    return root
