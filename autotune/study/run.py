"""Run a study: plan, probe, search, and evaluate the winner on the test set. The same call again resumes it."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime

from autotune.cache import eviction
from autotune.data import datasets
from autotune.data.split import MANIFEST, write_manifest
from autotune.engines.base import Engine, PixelSet, ProbeTask, Unfinished
from autotune.engines.local import warm_up
from autotune.errors import StudyError
from autotune.search.budget import Budget
from autotune.search.candidates import Candidate, Selection, select_backbones
from autotune.search.cost_penalty import cost_penalty
from autotune.search.optuna_study import OptunaStudy, storage_errors
from autotune.search.plan import Plan, build_context, make_plan
from autotune.search.recipe import recipe_params
from autotune.search.settings import definition
from autotune.search.space import BackboneOptions
from autotune.study.announce import announce, look_alike_lines, outline
from autotune.study.check_request import study_folder
from autotune.study.checks import (
    recorded_backbones,
    recorded_choices,
    refuse_another,
    refuse_other_trials,
    refuse_other_weights,
)
from autotune.study.driver import Driver, run_probes
from autotune.study.engines import driver_device, measured_speeds, open_engine
from autotune.study.evaluate import evaluate_winner
from autotune.study.finals.finals import Finals
from autotune.study.finals.race import RacePlanner
from autotune.study.growth.after import earlier_choices
from autotune.study.growth.earlier_model import compare_with_earlier
from autotune.study.listener import StudyListener
from autotune.study.prepare import Prepared, decode_pictures, prepare
from autotune.study.request import LOCAL, SearchRequest
from autotune.study.storage.checkpoints import Checkpoints
from autotune.study.storage.files import StudyFiles
from autotune.study.storage.lock import lock_study, refuse_in_use
from autotune.study.storage.record import TRIALS, Record, open_record
from autotune.study.storage.rows import BackboneFacts, Running
from autotune.study.summary import Summary, study_status
from autotune.study.timing.forecast import Forecast
from autotune.study.timing.limits import TOO_SHORT, TimeLimits, alarm
from autotune.study.timing.time_keeper import TimeKeeper
from autotune.text import percent, plural
from autotune.training.context import LoadedBackbones, TrialContext
from autotune.training.outcome import ProbeOutcome

NO_TIME_FOR_PROBE = "the time limit left no time for its linear probe"
MOST_PRETRAINED = 4  # backbones that are searched: more would get few trials each


def run_study(request: SearchRequest, listener: StudyListener) -> Summary:
    """Start or resume a study, run the requested number of trials, evaluate the winner and return the summary.

    Raises AutotuneError for problems that the user can fix. Ctrl-C loses nothing: the same call resumes the study.
    """
    with eviction.in_use(), ExitStack() as leaving:
        eviction.trim(eviction.limit())
        return _search(request, listener, leaving)


def _search(request: SearchRequest, listener: StudyListener, leaving: ExitStack) -> Summary:
    start = time.monotonic()
    deadline = start + request.timeout if request.timeout is not None else None
    refuse_in_use(study_folder(request))  # before the pictures are read
    if request.engine == LOCAL:
        warm_up()
    with alarm(deadline):
        engine = open_engine(request, study_folder(request))
        leaving.callback(engine.close)  # also if no worker is started
        ready = prepare(request, listener, engine.device)
    with lock_study(ready.folder), open_record(ready.folder) as record, _timed(record, start):
        refuse_another(record, ready.folder, ready.settings, ready.split)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        record.keep_facts(run=Running(os.getpid(), socket.gethostname(), now, request.trials, "planning"))
        record.keep_facts(root=str(ready.root), source=datasets.reference_of(request.data))  # the folder may have moved
        listener.opened(ready.folder, ready.settings.metric, record)
        try:
            if not _is_finished(record, request.trials, ready.settings.final):
                backbones = _run_trials(request, ready, engine, record, listener, deadline)
                _test(backbones, record, ready, listener)
            compare_with_earlier(request, ready, record, listener, deadline)
        except KeyboardInterrupt:
            listener.close()
            listener.say(_kept(record))
            raise
    listener.close()
    return study_status(ready.folder.name)


def _kept(record: Record) -> str:
    """Say what an interrupted study keeps, and what it will repeat."""
    n_folds = len(record.folds())
    kept = plural(record.n_trials(), "trial") + (f" and {plural(n_folds, 'network')} of the finals" if n_folds else "")
    return (
        f"Kept: {kept}. A trial that was running continues after its last saved epoch; a network of the finals starts "
        "again."
    )


def _is_finished(record: Record, n_trials: int, setting: str) -> bool:
    """Return whether the trials are done, and the final model is made and evaluated. setting: how to make it."""
    final = record.final()
    has_final = record.best() is None or (final is not None and final.is_complete and final.setting == setting)
    return len(record.trials()) >= n_trials and has_final and record.is_tested()


def _run_trials(
    request: SearchRequest, ready: Prepared, engine: Engine, record: Record, listener: StudyListener,
    deadline: float | None,
) -> LoadedBackbones:  # fmt: skip
    """Plan, probe, search and run the finals; return what the driver has loaded for it.

    deadline: of this run, on time.monotonic's clock.
    """
    folder = ready.folder
    listener.working("Planning")  # and starting the workers
    with engine:
        with alarm(deadline):
            plan = _plan(request, ready, record, listener)
            context = build_context(plan, driver_device(request))
            engine.configure(context)
            listener.planned(outline(folder.name, plan, request.trials, deadline))
            announce(listener, plan, request.trials, len(record.trials()), engine.words)
            record.keep_doing("decoding pictures", "read")
            decode_pictures(ready.split, ready.root, plan.selection, listener)
        engine.preload(_pixel_sets(plan.selection, context))
        _record_start(record, ready, plan)
        record.mark("read")
        checkpoints = Checkpoints(StudyFiles(folder, record), context)
        limits, final_limits = (TimeLimits(engine, deadline, plan.settings.trial_timeout) for _ in range(2))
        record.keep_doing("linear probes", "trials")
        selection = _probe(engine, checkpoints, plan, record, listener, limits)
        plan = replace(plan, selection=selection, recipe=recipe_params(plan.settings, selection))
        for line in look_alike_lines(record.facts().look_alikes, plan.split):
            listener.say(line)
        speeds = measured_speeds(plan, context.device)  # measured here, while the workers are idle
        with (
            storage_errors(folder / TRIALS),
            closing(OptunaStudy(folder / TRIALS, plan.settings, plan.selection.options, plan.recipe)) as trials,
        ):
            refuse_other_trials(folder, record, trials)
            _enqueue_first_trials(trials, plan.selection.options, record)
            planner = RacePlanner(plan, context, trials.warm_starts())
            forecast = Forecast(plan, context, planner, speeds, engine.n_places)
            backbones = LoadedBackbones(context)
            keeper = TimeKeeper(forecast, plan, backbones, record, listener, limits, final_limits, request.trials)
            record.keep_doing("trials", "trials")
            Driver(trials, engine, checkpoints, record, listener, limits, keeper, cost_penalty(plan)).run(
                request.trials
            )
        record.keep_doing("finals", "finals")
        keeper.end_trials()
        Finals(engine, record, checkpoints, plan, context, listener, planner, final_limits, keeper).run()
    return backbones


def _plan(request: SearchRequest, ready: Prepared, record: Record, listener: StudyListener) -> Plan:
    """Return the plan of a new study, or of the earlier run. Raises AutotuneError if a backbone cannot be used."""
    budget = Budget(ready.settings, len(ready.split.classes), listener.say, ready.profile)
    selection = select_backbones(
        ready.settings, ready.registry, request.weights, ready.device, ready.split.side, listener.say,
        recorded_backbones(record), budget=budget,
    )  # fmt: skip
    if budget.costs:
        record.keep_facts(costs=budget.measured)
    refuse_other_weights(record, selection)
    return make_plan(ready.settings, ready.split, selection, request.trials, recorded_choices(record))


def _record_start(record: Record, ready: Prepared, plan: Plan) -> None:
    """Record the study's pictures, split and settings before its first trial."""
    if record.facts().has_started:
        return
    folder, split = ready.folder, ready.split
    (folder / ".gitignore").write_text("*\n!study.toml\n", encoding="utf-8")
    for left in folder.glob("checkpoints/*.unfinished.ckpt"):  # left by a study whose record was deleted
        left.unlink()
    write_manifest(split, folder / MANIFEST)
    record.keep_facts(
        classes=split.classes, pictures=split.counts, skipped=split.skipped, split=split.identity,
        device=ready.device, definition=definition(ready.settings), cuts=plan.cuts, epochs=plan.settings.n_epochs,
        visits=split.visits, after=ready.earlier and str(ready.earlier.resolve()),
        earlier_choices=earlier_choices(ready.earlier) if ready.earlier else (),
    )  # fmt: skip


def _pixel_sets(selection: Selection, context: TrialContext) -> list[PixelSet]:
    """Return the pixels that `decode_pictures` has stored."""
    digests = (*context.train.digests, *context.validation.digests)
    return [
        PixelSet(size, one.backbone.traits.interpolation, digests)
        for one in selection.candidates
        for size in one.options.pixels
    ]


def _probe(
    engine: Engine,
    checkpoints: Checkpoints,
    plan: Plan,
    record: Record,
    listener: StudyListener,
    limits: TimeLimits,
) -> Selection:
    """Fit a linear probe for each pretrained backbone and size. Return the best backbones, best first.

    A backbone whose probe fails is skipped.
    """
    selection = plan.selection
    done = {(row.backbone, row.pixels) for row in record.probes()}
    left_out = dict(selection.left_out)
    todo = [
        ProbeTask(one.backbone, size)
        for one in (one.options for one in selection.candidates if not one.backbone.traits.from_scratch)
        for size in one.pixels
        if (one.backbone, size) not in done
    ]
    for task, outcome in run_probes(engine, todo, checkpoints, listener, limits):
        if isinstance(outcome, Unfinished):
            left_out[task.backbone] = NO_TIME_FOR_PROBE
            listener.say(f"Skipped: {task.backbone}: {NO_TIME_FOR_PROBE}")
        elif isinstance(outcome, ProbeOutcome):
            record.keep_probe(task.backbone, task.pixels, outcome)
            if record.probes()[0].backbone == task.backbone:
                classes = plan.split.classes
                record.keep_facts(look_alikes={classes[label]: found for label, found in outcome.look_alikes.items()})
            listener.say(
                f"Linear probe of {task.backbone} at {task.pixels} pixels: validation {percent(outcome.value)}, "
                f"cross-validated cross-entropy {outcome.log_loss:.3f}"
            )
        else:
            left_out[task.backbone] = outcome.error
            listener.say(f"Skipped: {task.backbone}: {outcome.error}")
    kept = [one for one in selection.candidates if one.backbone.name not in left_out]
    if not kept and NO_TIME_FOR_PROBE in left_out.values():
        raise StudyError(*TOO_SHORT)
    if not kept:
        raise StudyError("The probe of every backbone failed.", f"Read {engine.log('probe-*')}, then try again.")
    order = [row.backbone for row in record.probes()]
    kept.sort(key=lambda one: order.index(one.backbone.name) if one.backbone.name in order else len(order))
    if not record.facts().has_started:
        kept = _best(kept, left_out, record, listener)
        record.keep_facts(backbones={one.backbone.name: _facts(one) for one in kept}, left_out=left_out)
    return replace(selection, candidates=tuple(kept))


def _best(
    candidates: list[Candidate], left_out: dict[str, str], record: Record, listener: StudyListener
) -> list[Candidate]:
    """Return the first candidates, best first, and add the others to `left_out`. Those from scratch have no probe."""
    pretrained = [one for one in candidates if not one.backbone.traits.from_scratch]
    scores = {row.backbone: row.value for row in reversed(record.probes())}
    for one in pretrained[MOST_PRETRAINED:]:
        name = one.backbone.name
        left_out[name] = f"its linear probe, {percent(scores[name])}, is not among the best {MOST_PRETRAINED}"
        listener.say(f"Skipped: {name}: {left_out[name]}")
    return [one for one in candidates if one not in pretrained[MOST_PRETRAINED:]]


def _facts(one: Candidate) -> BackboneFacts:
    """Return the facts to record about a backbone."""
    return BackboneFacts(
        name=one.backbone.name,
        label=one.backbone.label,
        stages=one.n_stages,
        from_scratch=one.backbone.traits.from_scratch,
        pixels=one.options.pixels,
        depths=one.depths,
        digest=one.digest,
    )


def _enqueue_first_trials(search: OptunaStudy, backbones: tuple[BackboneOptions, ...], record: Record) -> None:
    """Enqueue the warm start of a new search: the best of an earlier study, then those of a practitioner."""
    if not record.facts().first_trials_queued:
        search.enqueue(backbones, record.facts().earlier_choices)
        record.keep_facts(first_trials_queued=True)


def _test(backbones: LoadedBackbones, record: Record, ready: Prepared, listener: StudyListener) -> None:
    """Evaluate the final model on the test set, unless it already was."""
    if record.is_tested():
        return
    record.keep_doing("test evaluation", "test")
    evaluate_winner(backbones, record, ready.folder, ready.root, ready.split, listener.progress("Test"))


@contextmanager
def _timed(record: Record, start: float) -> Iterator[None]:
    """Add the duration of a run to the study's, also if it is interrupted: then to what it was doing."""
    record.start_clock(start)
    try:
        yield
    except BaseException:
        record.mark(record.kind)
        raise
    finally:
        record.mark("other")
