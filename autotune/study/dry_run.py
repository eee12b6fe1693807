"""A dry run: plan a search and estimate its cost without running it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from autotune.cache.pixels import pixel_rows
from autotune.data.split import TRAIN, VALIDATION, Split
from autotune.files import cache_folder
from autotune.search.budget import Budget
from autotune.search.candidates import Candidate, Selection, select_backbones
from autotune.search.cost import expected_operations, expected_shares
from autotune.search.plan import Chosen, Plan, build_context, make_plan
from autotune.search.settings import Settings
from autotune.search.space import BackboneOptions
from autotune.study.announce import announce
from autotune.study.check_request import study_folder
from autotune.study.checks import (
    has_started,
    recorded_backbones,
    recorded_choices,
    refuse_another,
    refuse_other_weights,
)
from autotune.study.engines import driver_device, measured_speeds, open_engine
from autotune.study.finals.race import RacePlanner
from autotune.study.listener import StudyListener
from autotune.study.prepare import Prepared, prepare
from autotune.study.request import SearchRequest
from autotune.study.storage.lock import is_in_use
from autotune.study.storage.record import open_record
from autotune.study.storage.rows import FoldRow, TrialRow
from autotune.study.timing.feature_cost import FeatureCost, feature_costs
from autotune.study.timing.forecast import Forecast
from autotune.training.context import LoadedBackbones, TrialContext


@dataclass(frozen=True)
class DryRun:
    """The plan of a search and its estimated cost.

    has_started, is_running, tested: whether the study has started, whether a search is running, and whether its winner
    has been evaluated on the test set.
    trial_operations: of all remaining trials. pixel_bytes: of decoded pixels that are not cached yet. seconds: the
    estimated total.
    """

    study: str
    has_started: bool
    is_running: bool
    tested: bool
    split: Split
    settings: Settings
    selection: Selection
    n_trials: int
    n_finished: int
    features: tuple[FeatureCost, ...]
    trial_operations: float
    pixel_bytes: int
    cache_folder: Path
    seconds: float

    @property
    def n_left(self) -> int:
        return max(self.n_trials - self.n_finished, 0)

    @property
    def feature_operations(self) -> int:
        return sum(one.operations for one in self.features)

    @property
    def feature_bytes(self) -> int:
        """Size of the features that are not cached yet."""
        return sum(one.bytes - one.bytes_there for one in self.features)

    def to_json(self) -> dict[str, Any]:
        """Return the object that `search --dry-run --json` prints."""
        return {
            "study": self.study,
            "started": self.has_started,
            "running": self.is_running,
            "tested": self.tested,
            "classes": list(self.split.classes),
            "pictures": self.split.counts,
            "device": self.selection.device,
            "trials": {"asked": self.n_trials, "finished": self.n_finished, "left": self.n_left},
            "epochs": self.settings.n_epochs,
            "metric": self.settings.metric,
            "sampler": self.settings.sampler,
            "pruner": self.settings.pruner,
            "backbones": [_backbone_json(one) for one in self.selection.candidates],
            "left_out": self.selection.left_out,
            "features": [one.to_json() for one in self.features],
            "operations": {"features": self.feature_operations, "trials": self.trial_operations},
            "disk": {"folder": str(self.cache_folder), "features": self.feature_bytes, "pixels": self.pixel_bytes},
            "seconds": self.seconds,
        }


def dry_run(request: SearchRequest, listener: StudyListener) -> DryRun:
    """Read and split the pictures, plan the search and estimate its cost.

    Writes nothing to the study folder, and only the built-in sample and measured costs to the cache; starts no worker,
    downloads nothing.
    Raises AutotuneError if the search could not start.
    """
    engine = open_engine(request, study_folder(request))
    words = engine.words
    engine.close()
    start = time.monotonic()
    ready = prepare(request, listener, engine.device, store_pixels=False)
    reading = time.monotonic() - start  # as long as the search will take for it
    listener.working("Planning")
    earlier = _earlier_run(ready)
    selection = select_backbones(
        ready.settings, ready.registry, request.weights, ready.device, ready.split.side, listener.say,
        earlier.backbones, download=False,
        budget=Budget(ready.settings, len(ready.split.classes), listener.say, ready.profile),
    )  # fmt: skip
    _refuse_other_weights(ready.folder, selection)
    plan = make_plan(ready.settings, ready.split, selection, request.trials, earlier.chosen)
    announce(listener, plan, request.trials, earlier.n_finished, words)
    found = _count(request, ready.folder, plan, earlier, reading, engine.n_places)
    listener.close()
    return found


@dataclass(frozen=True)
class _EarlierRun:
    """The results of a study's earlier runs; the defaults are those of a new study."""

    trials: Sequence[TrialRow] = ()
    folds: Sequence[FoldRow] = ()
    is_tested: bool = False
    backbones: Mapping[str, BackboneOptions] | None = None
    chosen: Chosen | None = None

    @property
    def n_finished(self) -> int:
        return len(self.trials)

    def is_finished(self, n_trials: int) -> bool:
        return self.n_finished >= n_trials and self.is_tested


def _earlier_run(ready: Prepared) -> _EarlierRun:
    if not has_started(ready.folder):
        return _EarlierRun()
    with open_record(ready.folder) as record:
        refuse_another(record, ready.folder, ready.settings, ready.split)
        return _EarlierRun(
            record.trials(), record.folds(), record.is_tested(), recorded_backbones(record), recorded_choices(record)
        )


def _refuse_other_weights(folder: Path, selection: Selection) -> None:
    """Check the backbones as a search does, except those without installed weights."""
    if has_started(folder):
        with open_record(folder) as record:
            installed = tuple(one for one in selection.candidates if one.weights.installed)
            refuse_other_weights(record, replace(selection, candidates=installed))


def _count(
    request: SearchRequest, folder: Path, plan: Plan, earlier: _EarlierRun, reading: float, n_places: int
) -> DryRun:
    n_left = max(request.trials - earlier.n_finished, 0)
    context = build_context(plan, driver_device(request))
    shares = expected_shares(plan.selection, plan.settings, plan.split, n_left)
    features = feature_costs(plan, LoadedBackbones(context)) if n_left else ()
    seconds = _seconds(request, plan, context, earlier, features, reading, n_places)
    return DryRun(
        study=folder.name,
        has_started=earlier.backbones is not None,
        is_running=is_in_use(folder),
        tested=earlier.is_tested,
        split=plan.split,
        settings=plan.settings,
        selection=plan.selection,
        n_trials=request.trials,
        n_finished=earlier.n_finished,
        features=features,
        trial_operations=expected_operations(plan.selection, plan.cuts, shares),
        pixel_bytes=_pixel_bytes(plan),
        cache_folder=cache_folder(),
        seconds=seconds if request.timeout is None else min(seconds, request.timeout),
    )


def _seconds(request: SearchRequest, plan: Plan, context: TrialContext, earlier: _EarlierRun,
             features: Iterable[FeatureCost], reading: float, n_places: int) -> float:  # fmt: skip
    """Return the estimated duration of what is left of a study: 0 if it is finished. reading: seconds to read again."""
    if earlier.is_finished(request.trials):
        return 0.0
    planner = RacePlanner(plan, context, ())
    forecast = Forecast(plan, context, planner, measured_speeds(plan, context.device), n_places)
    missing = {(row.backbone, row.pixels): row.pictures_missing for row in features}
    return reading + forecast.left(request.trials, earlier.trials, earlier.folds, missing).total


def _pixel_bytes(plan: Plan) -> int:
    """Size of the decoded pixels that are not cached yet."""
    digests = [picture.digest for part in (TRAIN, VALIDATION) for picture in plan.split.part(part)]
    candidates = plan.selection.candidates
    sizes = {(size, one.backbone.traits.interpolation) for one in candidates for size in one.options.pixels}
    stores = [pixel_rows(size, how) for size, how in sorted(sizes)]
    return sum(len(rows.missing(digests)) * rows.row_bytes for rows in stores)


def _backbone_json(one: Candidate) -> dict[str, Any]:
    needs_download = not one.weights.installed
    megabytes = one.backbone.traits.megabytes if needs_download else None
    return {
        "name": one.backbone.name,
        "label": one.backbone.label,
        "stages": one.n_stages,
        "pixels": list(one.options.pixels),
        "depths": list(one.depths),
        "from_scratch": one.backbone.traits.from_scratch,
        "weights": {"installed": one.weights.installed, "megabytes": megabytes},
    }
