"""A study: data, probe, search with workers until the trials are done, test. Resuming is the same call again."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from autotune import cache, driver, evaluate, images, pixels, plan, plugins, samples, space, splits, work
from autotune.driver import Driver
from autotune.errors import StudyError
from autotune.files import cache_folder
from autotune.identity import (
    has_begun,
    recorded_arms,
    recorded_cuts,
    refuse_another,
    refuse_changed,
    refuse_other_weights,
)
from autotune.lesson import Backbones, Lesson
from autotune.listener import Outline, StudyListener
from autotune.plan import Candidate, Plan
from autotune.record import Record, locked, opened
from autotune.space import Arm, Settings
from autotune.splits import MANIFEST, TEST, TRAIN, VALIDATION, Split
from autotune.summary import STUDIES, status
from autotune.text import percent
from autotune.training import ProbeOutcome
from autotune.trials import Search
from autotune.workers import ProbeTask, Workers


@dataclass(frozen=True)
class Request:
    """What a user asks for. data: None is the built-in sample. flags: settings and ranges by name, over `config`'s."""

    data: Path | None = None
    name: str | None = None
    trials: int = 50
    timeout: float | None = None
    workers: int = 1
    device: str = "auto"
    config: Path | None = None
    weights: Path | None = None
    plugins: tuple[Path, ...] = ()
    manifest: Path | None = None
    skip_unreadable: bool = False
    flags: Mapping[str, Any] | None = None


def search(request: Request, listener: StudyListener) -> dict[str, Any]:
    """Run a study to the number of trials asked for, or go on with one, then test the winner. Returns its summary.

    Raises AutotuneError for what the user can mend. Ctrl-C loses nothing: the same call goes on.
    """
    with cache.in_use():
        cache.trim(cache.limit())
        return _searched(request, listener)


def _searched(request: Request, listener: StudyListener) -> dict[str, Any]:
    start = time.monotonic()
    folder = folder_of(request)
    settings = space.read(config_of(request, folder), request.flags or {}, is_writing=samples.is_writing(request.data))
    catalogue = plugins.catalogue(request.plugins)
    refuse_unknown(settings, catalogue)
    device = plan.device(request.device)
    parts, root = read_pictures(request, folder, settings, catalogue, listener)
    with locked(folder), opened(folder) as book, _timed(book, start):
        refuse_another(book, folder, settings, parts)
        book.note(root=str(root), source=samples.spoken(request.data))  # which may have moved
        listener.opened(folder, settings.metric, book)
        if len(book.trials()) < request.trials or not book.is_tested():
            asked, settings = settings, plan.decided(settings, parts)
            with Workers(request.workers) as workers:
                chosen = plan.make(
                    settings, catalogue, request.weights, device, parts.side, listener.say, recorded_arms(book)
                )
                cuts = recorded_cuts(book) or plan.banked(chosen, settings, parts, request.trials)
                lesson = plan.lesson(settings, parts, chosen, request.workers, folder, cuts)
                refuse_other_weights(book, chosen)
                workers.teach(lesson)
                listener.planned(_outline(folder.name, request.trials, settings, parts, chosen))
                announce(listener, request.trials, len(book.trials()), settings, parts, chosen)
                decode(parts, root, chosen, listener)
                _begin(book, folder, asked, parts, device, cuts)
                book.add_seconds(read=time.monotonic() - start)
                arms = _probe(workers, chosen, book, listener)
                left = max(request.trials - len(book.trials()), 0)  # the workers wait, so rates can be measured
                listener.estimated(plan.estimate(chosen, settings, left, parts, cuts))
                trials = _queued(Search(folder / "trials.db", settings, arms), arms, book)
                deadline = start + request.timeout if request.timeout is not None else None
                Driver(trials, workers, book, listener, deadline).run(request.trials)
            _test(lesson, book, root, parts, listener)
    listener.close()
    return status(folder.name)


def folder_of(request: Request) -> Path:
    """Where the study lives: studies/NAME; the name is the data folder's unless given. Raises StudyError."""
    name = request.name or samples.name(request.data)
    if not name or name.startswith(".") or set(name) & set("/\\?"):  # "?" would end the path of a database's URL
        raise StudyError(f"A study cannot be named {name!r}.", "Give it a plain name: --study NAME")
    return STUDIES / name


def config_of(request: Request, folder: Path) -> Path | None:
    """The study.toml that counts: the one named, or the study's own if it is there."""
    own = folder / "study.toml"
    return request.config or (own if own.is_file() else None)


def refuse_unknown(settings: Settings, catalogue: plugins.Catalogue) -> None:
    for name in plan.named(settings.space.backbone):
        catalogue.find(name)


def read_pictures(request: Request, folder: Path, settings: Settings, catalogue: plugins.Catalogue,
                  listener: StudyListener, keep: bool = True) -> tuple[Split, Path]:  # fmt: skip
    """The pictures and their parts: a study's own manifest if there is one and the folder still is as it says.

    keep: what is decoded for this is also resized and stored, so that it need not be decoded again.
    """
    source = samples.place(request.data, cache_folder(), listener.say)
    manifest = folder / MANIFEST
    own = splits.read(manifest) if manifest.is_file() and has_begun(folder) else ()
    old = splits.read(request.manifest) if request.manifest else ()

    def shelf(side: int) -> pixels.Squares:
        sealed = splits.seal(settings.seed, settings.test, old)
        return pixels.Squares(plan.looks(settings, catalogue, request.weights, side), sealed)

    catalog = images.read(
        source, {p.path: p for p in own}, listener.progress("Reading"), shelf if keep and not own else None
    )
    if not request.skip_unreadable:
        images.refuse_many_bad(catalog)
    listener.close()
    if own:
        refuse_changed(folder, own, catalog.pictures)
        return Split(catalog.classes, own, catalog.set_aside, {}), catalog.root
    return splits.split(catalog, settings.seed, settings.validation, settings.test, old), catalog.root


def _begin(book: Record, folder: Path, settings: Settings, parts: Split, device: str, cuts: plan.Cuts) -> None:
    """Write down what this study is, before its first trial."""
    if book.fact("arms") is not None:
        return
    (folder / ".gitignore").write_text("*\n!study.toml\n", encoding="utf-8")
    for left in folder.glob("checkpoints/*.unfinished.ckpt"):  # of a study whose record was deleted
        left.unlink()
    splits.write(parts, folder / MANIFEST)
    aside = [asdict(one) for one in parts.set_aside]
    book.note(classes=parts.classes, pictures=parts.counts, set_aside=aside, split=parts.identity, device=device)
    book.note(definition=space.definition(settings), banked=[[*key, kept] for key, kept in cuts.items()])


def announce(
    listener: StudyListener, n_trials: int, n_done: int, settings: Settings, parts: Split, chosen: Plan
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
    for (name, size), found in plan.counted(chosen, settings, parts, n_trials).items():
        for cut in found:
            listener.detail(work.in_words(name, size, cut, stages=found[-1].number))
    listener.say(
        f"Plan: {left} trials of up to {settings.n_epochs} epochs, {settings.sampler} and {settings.pruner}, "
        f"on {chosen.device}."
    )


def _outline(name: str, n_trials: int, settings: Settings, parts: Split, chosen: Plan) -> Outline:
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
    return f"last {_span(one.depths)} of {one.anatomies[0].stages} stages"


def _span(depths: Sequence[int]) -> str:
    return f"{min(depths)} to {max(depths)}" if len(depths) > 1 else str(depths[0])


def decode(parts: Split, root: Path, chosen: Plan, listener: StudyListener) -> None:
    """Decode what trials see, training and validation pictures, at every size that is searched."""
    pictures = (*parts.part(TRAIN), *parts.part(VALIDATION))
    for one in chosen.candidates:
        how = one.backbone.traits.interpolation
        for size in one.arm.pixels:
            pixels.fill(pixels.store(size, how), root, pictures, how, listener.progress(f"Decoding to {size} pixels"))


def _probe(workers: Workers, chosen: Plan, book: Record, listener: StudyListener) -> tuple[Arm, ...]:
    """A linear probe for each pretrained backbone and size; the best come first. One that raises is left out."""
    done = {(row["backbone"], row["pixels"]) for row in book.probes()}
    left_out = dict(chosen.left_out)
    todo = [
        ProbeTask(arm.backbone, size, str(workers.log(f"probe-{arm.backbone.replace(':', '-')}-{size}")))
        for arm in (one.arm for one in chosen.candidates if not one.backbone.traits.from_scratch)
        for size in arm.pixels
        if (arm.backbone, size) not in done
    ]
    for task, news in driver.probes(workers, todo, listener):
        if isinstance(news, ProbeOutcome):
            book.keep_probe(task.backbone, task.pixels, news)
            listener.say(f"Probe: a linear head on {task.backbone} at {task.pixels} pixels: {percent(news.value)}")
        else:
            left_out[task.backbone] = news.error
            listener.say(f"Left out: {task.backbone}: {news.error}")
    kept = [one for one in chosen.candidates if one.backbone.name not in left_out]
    if not kept:
        raise StudyError("Every backbone has failed its probe.", f"Read {workers.log('probe-*')}; then try again.")
    order = [row["backbone"] for row in book.probes()]
    kept.sort(key=lambda one: order.index(one.backbone.name) if one.backbone.name in order else len(order))
    if book.fact("arms") is None:
        book.note(arms={one.backbone.name: _facts(one) for one in kept}, left_out=left_out)
    return tuple(one.arm for one in kept)


def _facts(one: Candidate) -> dict[str, Any]:
    """What the record keeps of a backbone that takes part."""
    return {
        "label": one.backbone.label,
        "stages": one.anatomies[0].stages,
        "from_scratch": one.backbone.traits.from_scratch,
        "pixels": one.arm.pixels,
        "depths": one.depths,
        "digest": one.digest,
    }


def _queued(search: Search, arms: tuple[Arm, ...], book: Record) -> Search:
    """A new search starts with the recipes of old hands."""
    if not book.fact("enqueued"):
        search.enqueue(arms)
        book.note(enqueued=True)
    return search


def _test(lesson: Lesson, book: Record, root: Path, parts: Split, listener: StudyListener) -> None:
    """Look at the test pictures with the winner, unless it has been looked at."""
    best = book.best()
    if best is None or book.is_tested():
        return
    start = time.monotonic()
    backbones = Backbones(lesson)
    evaluate.look(backbones, book, root, parts, best, listener.progress("Test"))
    book.add_seconds(test=time.monotonic() - start)


@contextmanager
def _timed(book: Record, start: float) -> Iterator[None]:
    """Add a run's time to the study's, also where it is cut off."""
    try:
        yield
    finally:
        book.add_seconds(total=time.monotonic() - start)
