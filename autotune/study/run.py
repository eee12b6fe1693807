"""A study: data, probe, search with workers until the trials are done, test. Resuming is the same call again."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from autotune.backbones.registry import Registry, discover
from autotune.cache import eviction
from autotune.cache.pixels import PixelWriter, fill_pixels, pixel_rows
from autotune.data import datasets
from autotune.data.catalog import read_catalog, refuse_many_unreadable
from autotune.data.split import (
    MANIFEST,
    TEST,
    TRAIN,
    VALIDATION,
    Split,
    likely_test,
    read_manifest,
    split_catalog,
    write_manifest,
)
from autotune.engines.base import ProbeTask
from autotune.engines.local import LocalEngine
from autotune.errors import StudyError
from autotune.files import cache_folder
from autotune.search.candidates import Candidate, Selection, fixed_names, select_backbones
from autotune.search.cost import describe_cut
from autotune.search.optuna_study import OptunaStudy
from autotune.search.plan import Cuts, build_context, choose_cuts, count_cuts, pick_device, resolve_settings
from autotune.search.read_ahead import likely_pixels
from autotune.search.settings import Settings, definition, read_settings
from autotune.search.space import BackboneOptions
from autotune.search.speed import estimate_seconds
from autotune.study.checks import (
    has_begun,
    recorded_arms,
    recorded_cuts,
    refuse_another,
    refuse_changed,
    refuse_other_weights,
)
from autotune.study.driver import Driver, run_probes
from autotune.study.evaluate import evaluate_trial
from autotune.study.listener import Outline, StudyListener
from autotune.study.record import Record, lock_study, open_record
from autotune.study.request import SearchRequest
from autotune.study.summary import STUDIES, study_status
from autotune.text import percent
from autotune.training.context import LoadedBackbones, TrialContext
from autotune.training.outcome import ProbeOutcome


def run_study(request: SearchRequest, listener: StudyListener) -> dict[str, Any]:
    """Run a study to the number of trials asked for, or go on with one, then test the winner. Returns its summary.

    Raises AutotuneError for what the user can mend. Ctrl-C loses nothing: the same call goes on.
    """
    with eviction.in_use():
        eviction.trim(eviction.limit())
        return _searched(request, listener)


def _searched(request: SearchRequest, listener: StudyListener) -> dict[str, Any]:
    start = time.monotonic()
    folder = study_folder(request)
    settings = read_settings(
        study_config(request, folder), request.flags or {}, is_writing=datasets.is_writing(request.data)
    )
    registry = discover(request.plugins)
    refuse_unknown(settings, registry)
    device = pick_device(request.device)
    parts, root = read_pictures(request, folder, settings, registry, listener)
    with lock_study(folder), open_record(folder) as record, _timed(record, start):
        refuse_another(record, folder, settings, parts)
        record.note(root=str(root), source=datasets.reference_of(request.data))  # which may have moved
        listener.opened(folder, settings.metric, record)
        if len(record.trials()) < request.trials or not record.is_tested():
            asked, settings = settings, resolve_settings(settings, parts)
            with LocalEngine(request.workers) as workers:
                chosen = select_backbones(
                    settings, registry, request.weights, device, parts.side, listener.say, recorded_arms(record)
                )
                cuts = recorded_cuts(record) or choose_cuts(chosen, settings, parts, request.trials)
                context = build_context(settings, parts, chosen, request.workers, folder, cuts)
                refuse_other_weights(record, chosen)
                workers.teach(context)
                listener.planned(_outline(folder.name, request.trials, settings, parts, chosen))
                announce(listener, request.trials, len(record.trials()), settings, parts, chosen)
                decode_pictures(parts, root, chosen, listener)
                _begin(record, folder, asked, parts, device, cuts)
                record.add_seconds(read=time.monotonic() - start)
                arms = _probe(workers, chosen, record, listener)
                left = max(request.trials - len(record.trials()), 0)  # the workers wait, so rates can be measured
                listener.estimated(estimate_seconds(chosen, settings, left, parts, cuts))
                trials = _queued(OptunaStudy(folder / "trials.db", settings, arms), arms, record)
                deadline = start + request.timeout if request.timeout is not None else None
                Driver(trials, workers, record, listener, deadline).run(request.trials)
            _test(context, record, root, parts, listener)
    listener.close()
    return study_status(folder.name)


def study_folder(request: SearchRequest) -> Path:
    """Where the study lives: studies/NAME; the name is the data folder's unless given. Raises StudyError."""
    name = request.name or datasets.default_study_name(request.data)
    if not name or name.startswith(".") or set(name) & set("/\\?"):  # "?" would end the path of a database's URL
        raise StudyError(f"A study cannot be named {name!r}.", "Give it a plain name: --study NAME")
    return STUDIES / name


def study_config(request: SearchRequest, folder: Path) -> Path | None:
    """The study.toml that counts: the one named, or the study's own if it is there."""
    own = folder / "study.toml"
    return request.config or (own if own.is_file() else None)


def refuse_unknown(settings: Settings, registry: Registry) -> None:
    for name in fixed_names(settings.space.backbone):
        registry.find(name)


def read_pictures(request: SearchRequest, folder: Path, settings: Settings, registry: Registry,
                  listener: StudyListener, keep: bool = True) -> tuple[Split, Path]:  # fmt: skip
    """The pictures and their parts: a study's own manifest if there is one and the folder still is as it says.

    keep: what is decoded for this is also resized and stored, so that it need not be decoded again.
    """
    source = datasets.locate(request.data, cache_folder(), listener.say)
    manifest = folder / MANIFEST
    own = read_manifest(manifest) if manifest.is_file() and has_begun(folder) else ()
    old = read_manifest(request.manifest) if request.manifest else ()

    def shelf(side: int) -> PixelWriter:
        sealed = likely_test(settings.seed, settings.test, old)
        return PixelWriter(likely_pixels(settings, registry, request.weights, side), sealed)

    catalog = read_catalog(
        source, {p.path: p for p in own}, listener.progress("Reading"), shelf if keep and not own else None
    )
    if not request.skip_unreadable:
        refuse_many_unreadable(catalog)
    listener.close()
    if own:
        refuse_changed(folder, own, catalog.pictures)
        return Split(catalog.classes, own, catalog.set_aside, {}), catalog.root
    return split_catalog(catalog, settings.seed, settings.validation, settings.test, old), catalog.root


def _begin(record: Record, folder: Path, settings: Settings, parts: Split, device: str, cuts: Cuts) -> None:
    """Write down what this study is, before its first trial."""
    if record.fact("arms") is not None:
        return
    (folder / ".gitignore").write_text("*\n!study.toml\n", encoding="utf-8")
    for left in folder.glob("checkpoints/*.unfinished.ckpt"):  # of a study whose record was deleted
        left.unlink()
    write_manifest(parts, folder / MANIFEST)
    aside = [asdict(one) for one in parts.set_aside]
    record.note(classes=parts.classes, pictures=parts.counts, set_aside=aside, split=parts.identity, device=device)
    record.note(definition=definition(settings), banked=[[*key, kept] for key, kept in cuts.items()])


def announce(
    listener: StudyListener, n_trials: int, n_done: int, settings: Settings, parts: Split, chosen: Selection
) -> None:
    """Say what takes part, and what is planned with it."""
    counts, left = parts.counts, max(n_trials - n_done, 0)
    listener.say(
        f"{counts[TRAIN]} training, {counts[VALIDATION]} validation, {counts[TEST]} test pictures of "
        f"{len(parts.classes)} classes; {counts['set_aside']} set aside."
    )
    if chosen.absent:
        names = ", ".join(chosen.absent)
        listener.say(f"Left out, their weights not being here: {names}. `autotune plugins` says how to have them.")
    for name, reason in chosen.left_out.items():
        if name in chosen.absent:
            continue
        listener.say(f"Left out: {name}: {reason}")
    for one in chosen.candidates:
        sizes = ", ".join(str(size) for size in one.arm.pixels)
        listener.say(f"Backbone: {one.backbone.name} at {sizes} pixels, {_depths(one)}{_whence(one)}.")
    for (name, size), found in count_cuts(chosen, settings, parts, n_trials).items():
        for cut in found:
            listener.detail(describe_cut(name, size, cut, stages=found[-1].number))
    listener.say(
        f"Plan: {left} trials of up to {settings.n_epochs} epochs, {settings.sampler} and {settings.pruner}, "
        f"on {chosen.device}."
    )


def _outline(name: str, n_trials: int, settings: Settings, parts: Split, chosen: Selection) -> Outline:
    """The plan in a few words, for a live listener."""
    counts = parts.counts
    pictures = " + ".join(str(counts[part]) for part in (TRAIN, VALIDATION, TEST))
    backbones = [
        f"{one.backbone.label}, {' or '.join(map(str, one.arm.pixels))} pixels, {_depths(one)}"
        for one in chosen.candidates
    ]
    facts = (
        f"{pictures} pictures of {len(parts.classes)} classes", *backbones,
        f"{n_trials} trials of up to {settings.n_epochs} epochs", f"on {chosen.device}",
    )  # fmt: skip
    return Outline(name, facts, settings.metric, settings.n_epochs, settings.gap, chosen.device)


def _whence(one: Candidate) -> str:
    source = one.backbone.traits.weights or ""
    if one.backbone.traits.from_scratch:
        return ""
    if one.weights.at_hand or source.startswith("package:"):
        return f", weights {one.weights.reason}"
    return f", weights by download, {one.backbone.traits.megabytes or '?'} MB"


def _depths(one: Candidate) -> str:
    if one.backbone.traits.from_scratch:
        return "from scratch"
    return f"last {_span(one.depths)} of {one.profiles[0].stages} stages"


def _span(depths: Sequence[int]) -> str:
    return f"{min(depths)} to {max(depths)}" if len(depths) > 1 else str(depths[0])


def decode_pictures(parts: Split, root: Path, chosen: Selection, listener: StudyListener) -> None:
    """Decode what trials see, training and validation pictures, at every size that is searched."""
    pictures = (*parts.part(TRAIN), *parts.part(VALIDATION))
    for one in chosen.candidates:
        how = one.backbone.traits.interpolation
        for size in one.arm.pixels:
            fill_pixels(pixel_rows(size, how), root, pictures, how, listener.progress(f"Decoding to {size} pixels"))


def _probe(
    workers: LocalEngine, chosen: Selection, record: Record, listener: StudyListener
) -> tuple[BackboneOptions, ...]:
    """A linear probe for each pretrained backbone and size; the best come first. One that raises is left out."""
    done = {(row["backbone"], row["pixels"]) for row in record.probes()}
    left_out = dict(chosen.left_out)
    todo = [
        ProbeTask(arm.backbone, size, str(workers.log(f"probe-{arm.backbone.replace(':', '-')}-{size}")))
        for arm in (one.arm for one in chosen.candidates if not one.backbone.traits.from_scratch)
        for size in arm.pixels
        if (arm.backbone, size) not in done
    ]
    for task, news in run_probes(workers, todo, listener):
        if isinstance(news, ProbeOutcome):
            record.keep_probe(task.backbone, task.pixels, news)
            listener.say(f"Probe: a linear head on {task.backbone} at {task.pixels} pixels: {percent(news.value)}")
        else:
            left_out[task.backbone] = news.error
            listener.say(f"Left out: {task.backbone}: {news.error}")
    kept = [one for one in chosen.candidates if one.backbone.name not in left_out]
    if not kept:
        raise StudyError("Every backbone has failed its probe.", f"Read {workers.log('probe-*')}; then try again.")
    order = [row["backbone"] for row in record.probes()]
    kept.sort(key=lambda one: order.index(one.backbone.name) if one.backbone.name in order else len(order))
    if record.fact("arms") is None:
        record.note(arms={one.backbone.name: _facts(one) for one in kept}, left_out=left_out)
    return tuple(one.arm for one in kept)


def _facts(one: Candidate) -> dict[str, Any]:
    """What the record keeps of a backbone that takes part."""
    return {
        "label": one.backbone.label,
        "stages": one.profiles[0].stages,
        "from_scratch": one.backbone.traits.from_scratch,
        "pixels": one.arm.pixels,
        "depths": one.depths,
        "digest": one.digest,
    }


def _queued(search: OptunaStudy, arms: tuple[BackboneOptions, ...], record: Record) -> OptunaStudy:
    """A new search starts with the recipes of old hands."""
    if not record.fact("enqueued"):
        search.enqueue(arms)
        record.note(enqueued=True)
    return search


def _test(context: TrialContext, record: Record, root: Path, parts: Split, listener: StudyListener) -> None:
    """Look at the test pictures with the winner, unless it has been looked at."""
    best = record.best()
    if best is None or record.is_tested():
        return
    start = time.monotonic()
    backbones = LoadedBackbones(context)
    evaluate_trial(backbones, record, root, parts, best, listener.progress("Test"))
    record.add_seconds(test=time.monotonic() - start)


@contextmanager
def _timed(record: Record, start: float) -> Iterator[None]:
    """Add a run's time to the study's, also where it is cut off."""
    try:
        yield
    finally:
        record.add_seconds(total=time.monotonic() - start)
