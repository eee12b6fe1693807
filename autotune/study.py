"""A study: data, probe, search with workers until the trials are done, test. Resuming is the same call again."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from autotune import driver, evaluate, images, pixels, plan, plugins, space, splits, training
from autotune.augment import Subject
from autotune.batches import Labelled
from autotune.driver import Driver
from autotune.errors import StudyError
from autotune.images import Picture
from autotune.plan import Candidate, Plan
from autotune.record import Record
from autotune.screen import Screen, duration, percent
from autotune.search import Search
from autotune.space import Arm, Settings
from autotune.splits import TEST, TRAIN, VALIDATION, Split
from autotune.store import cache_folder
from autotune.summary import STUDIES, find, status
from autotune.training import Lesson, ProbeOutcome
from autotune.workers import ProbeTask, Workers

MANIFEST = "manifest.csv"


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


def search(request: Request, screen: Screen) -> dict[str, Any]:
    """Run a study to the number of trials asked for, or go on with one, then test the winner. Returns its summary.

    Raises AutotuneError for what the user can mend. Ctrl-C loses nothing: the same call goes on.
    """
    start = time.monotonic()
    folder = _folder(request)
    settings = space.read(_config(request, folder), request.flags or {}, sample=request.data is None)
    catalogue = plugins.catalogue(request.plugins)
    _refuse_unknown(settings, catalogue)
    device = plan.device(request.device)
    parts, root = _read(request, folder, settings, screen)
    with _locked(folder), _opened(folder) as book, _timed(book, start):
        _refuse_another(book, folder, settings, parts)
        book.note(root=str(root))  # which may have moved
        if len(book.trials()) < request.trials or not _is_tested(book):
            asked, settings = settings, _decided(settings, parts)
            chosen = plan.make(
                settings, catalogue, request.weights, device, parts.side, screen.say, _recorded_arms(book)
            )
            lesson = _lesson(settings, parts, chosen, request.workers, folder)
            _refuse_other_weights(book, chosen)
            _announce(screen, request.trials, settings, parts, chosen, book)
            _decode(parts, root, chosen, screen)
            _begin(book, folder, asked, parts)
            book.add_seconds(read=time.monotonic() - start)
            with Workers(request.workers, lesson) as workers:
                arms = _probe(workers, chosen, book, screen)
                trials = _queued(Search(folder / "trials.db", settings, arms), arms, book)
                deadline = start + request.timeout if request.timeout is not None else None
                Driver(trials, workers, book, screen, deadline).run(request.trials)
            _test(lesson, book, root, parts, screen)
    screen.close()
    return status(folder.name)


def evaluate_again(name: str, request: Request, screen: Screen) -> dict[str, Any]:
    """Look at the test pictures once more with the winner; the record counts it."""
    folder = find(name)
    with _locked(folder), _opened(folder) as book:
        best = book.best()
        if best is None:
            raise StudyError(f"Study {name} has no complete trial.", "Let it finish one: the same search again.")
        settings = space.read(None, {key: book.fact("definition")[key] for key in ("metric", "seed")})
        parts = Split(tuple(book.fact("classes")), splits.read(folder / MANIFEST), (), {})
        _refuse_another_split(book, folder, parts)
        winner = best["params"]["backbone"]
        only = {winner: (_recorded_arms(book) or {})[winner]}
        catalogue, device = plugins.catalogue(request.plugins), plan.device(request.device)
        chosen = plan.make(settings, catalogue, request.weights, device, parts.side, screen.say, only)
        _refuse_other_weights(book, chosen)
        lesson = _lesson(_decided(settings, parts), parts, chosen, 1, folder)
        _test(lesson, book, Path(book.fact("root")), parts, screen, again=True)
    screen.close()
    return status(str(folder))


def _folder(request: Request) -> Path:
    name = request.name or (images.SAMPLE if request.data is None else request.data.resolve().name)
    if not name or name.startswith(".") or set(name) & set("/\\?"):  # "?" would end the path of a database's URL
        raise StudyError(f"A study cannot be named {name!r}.", "Give it a plain name: --study NAME")
    return STUDIES / name


def _config(request: Request, folder: Path) -> Path | None:
    own = folder / "study.toml"
    return request.config or (own if own.is_file() else None)


def _refuse_unknown(settings: Settings, catalogue: plugins.Catalogue) -> None:
    for name in plan.named(settings.space.backbone):
        catalogue.find(name)


def _read(request: Request, folder: Path, settings: Settings, screen: Screen) -> tuple[Split, Path]:
    """The pictures and their parts: a study's own manifest if there is one and the folder still is as it says."""
    root = (request.data or images.sample(cache_folder())).resolve()
    if request.data is None:
        screen.say("No folder was named: this is the built-in sample, 1,797 handwritten digits from scikit-learn.")
    manifest = folder / MANIFEST
    own = splits.read(manifest) if manifest.is_file() and _has_begun(folder) else ()
    catalog = images.read(root, {p.path: p for p in own}, screen.progress("Reading"))
    if not request.skip_unreadable:
        images.refuse_many_bad(catalog)
    screen.close()
    if own:
        _refuse_changed(folder, own, catalog.pictures)
        return Split(catalog.classes, own, catalog.set_aside, {}), root
    old = splits.read(request.manifest) if request.manifest else ()
    return splits.split(catalog, settings.seed, settings.validation, settings.test, old), root


def _refuse_changed(folder: Path, own: Sequence[Picture], now: Sequence[Picture]) -> None:
    """A study is of one set of pictures. Copies that the split itself had set aside may be there, and are."""
    before, after = ({(p.path, p.digest, p.label) for p in pictures} for pictures in (own, now))
    held = {digest for _, digest, _ in before}
    gone, new = before - after, {row for row in after - before if row[1] not in held}
    if gone or new:
        some = ", ".join(sorted(row[0] for row in (*gone, *new))[:3])
        raise StudyError(
            f"Study {folder.name} was made from other pictures: {len(gone)} gone or changed, {len(new)} new ({some}).",
            f"Start a new study that keeps every picture's side: --study NEW --manifest {folder / MANIFEST}",
        )


def _has_begun(folder: Path) -> bool:
    """Whether a study's trials can have been started: until then, whatever is asked for may change."""
    if not (folder / "record.db").is_file():
        return False
    with _opened(folder) as book:
        return book.fact("arms") is not None


def _refuse_another(book: Record, folder: Path, settings: Settings, parts: Split) -> None:
    """A study that has begun has one definition and one set of pictures."""
    if book.fact("arms") is None:
        return
    if differs := space.differences(book.fact("definition"), space.definition(settings)):
        raise StudyError(
            f"Study {folder.name} exists with another definition: {'; '.join(differs)}.",
            "Ask for the same again, or start another study: --study NEW",
        )
    _refuse_another_split(book, folder, parts)


def _refuse_another_split(book: Record, folder: Path, parts: Split) -> None:
    if book.fact("split") != parts.identity:
        raise StudyError(
            f"The manifest of study {folder.name} is not the one it was made with.",
            f"Put {folder / MANIFEST} back, or start another study: --study NEW",
        )


def _refuse_other_weights(book: Record, chosen: Plan) -> None:
    """What a study's backbones compute must not change under it: other weights, or an edited plugin."""
    known = book.fact("arms") or {}
    for one in chosen.candidates:
        name = one.backbone.name
        if name in known and known[name]["digest"] != one.digest:
            raise StudyError(
                f"Backbone {name} (weights {one.weights.reason}) is not the one that this study was made with.",
                "Name the same --weights and --plugins as before, or start another study: --study NEW",
            )


def _begin(book: Record, folder: Path, settings: Settings, parts: Split) -> None:
    """Write down what this study is, before its first trial."""
    if book.fact("arms") is not None:
        return
    (folder / ".gitignore").write_text("*\n!study.toml\n", encoding="utf-8")
    for left in folder.glob("checkpoints/*.unfinished.ckpt"):  # of a study whose record was deleted
        left.unlink()
    splits.write(parts, folder / MANIFEST)
    aside = [asdict(one) for one in parts.set_aside]
    book.note(classes=parts.classes, pictures=parts.counts, set_aside=aside, split=parts.identity)
    book.note(definition=space.definition(settings))


def _recorded_arms(book: Record) -> dict[str, Arm] | None:
    arms = book.fact("arms")
    return arms and {name: Arm(name, tuple(one["pixels"]), tuple(one["depths"])) for name, one in arms.items()}


def _decided(settings: Settings, parts: Split) -> Settings:
    """Settings with what the training pictures decide filled in: epochs, and whether to weigh rare classes."""
    train = parts.part(TRAIN)
    ranged = settings.space.class_weight or plan.class_weight_range(Counter(p.label for p in train))
    epochs = settings.epochs or space.epochs_for(len(train))
    return space.narrowed(replace(settings, epochs=epochs), class_weight=ranged)


def _lesson(settings: Settings, parts: Split, chosen: Plan, n_workers: int, folder: Path) -> Lesson:
    """What workers are told. The test part stays here."""
    augment = settings.space.augment
    return Lesson(
        classes=len(parts.classes),
        train=_labelled(parts.part(TRAIN), parts.classes),
        validation=_labelled(parts.part(VALIDATION), parts.classes),
        gap_sample=_labelled(parts.gap_sample, parts.classes),
        backbones={one.backbone.name: (one.backbone, one.weights) for one in chosen.candidates},
        cuts={one.backbone.name: one.cuts for one in chosen.candidates},
        augmented=augment != space.Fixed(0) and augment != space.Fixed(0.0),
        subject=Subject(settings.flips, settings.angle),
        metric=settings.metric,
        epochs=settings.n_epochs,
        cycle_epochs=settings.cycle_length,
        patience=settings.patience,
        gap=settings.gap,
        seed=settings.seed,
        device=chosen.device,
        threads=max(1, (os.cpu_count() or 1) // n_workers),
        folder=folder.resolve(),
    )


def _labelled(pictures: Sequence[Picture], classes: Sequence[str]) -> Labelled:
    numbers = {name: number for number, name in enumerate(classes)}
    return Labelled(tuple(p.digest for p in pictures), tuple(numbers[p.label] for p in pictures))


def _announce(screen: Screen, n_trials: int, settings: Settings, parts: Split, chosen: Plan, book: Record) -> None:
    counts = parts.counts
    left = max(n_trials - len(book.trials()), 0)
    screen.say(
        f"{counts[TRAIN]} training, {counts[VALIDATION]} validation, {counts[TEST]} test pictures of "
        f"{len(parts.classes)} classes; {counts['set_aside']} set aside."
    )
    for name, reason in chosen.left_out.items():
        screen.say(f"Left out: {name}: {reason}")
    for one in chosen.candidates:
        sizes = ", ".join(str(size) for size in one.arm.pixels)
        stages = one.anatomies[0].stages
        depths = "from scratch" if one.backbone.traits.from_scratch else f"last {_span(one.depths)} of {stages} stages"
        whence = "" if one.backbone.traits.from_scratch else f", weights {one.weights.reason}"
        screen.say(f"Backbone: {one.backbone.name} at {sizes} pixels, {depths}{whence}.")
    seconds = plan.estimate(chosen, settings, left, counts[TRAIN], counts[VALIDATION])
    screen.say(
        f"Plan: {left} trials of up to {settings.n_epochs} epochs, {settings.sampler} and {settings.pruner}, "
        f"on {chosen.device}; about {duration(seconds)}."
    )


def _span(depths: Sequence[int]) -> str:
    return f"{min(depths)} to {max(depths)}" if len(depths) > 1 else str(depths[0])


def _decode(parts: Split, root: Path, chosen: Plan, screen: Screen) -> None:
    pictures = (*parts.part(TRAIN), *parts.part(VALIDATION))
    for one in chosen.candidates:
        how = one.backbone.traits.interpolation
        for size in one.arm.pixels:
            pixels.fill(pixels.store(size, how), root, pictures, how, screen.progress(f"Decoding to {size} pixels"))


def _probe(workers: Workers, chosen: Plan, book: Record, screen: Screen) -> tuple[Arm, ...]:
    """A linear probe for each pretrained backbone and size; the best come first. One that raises is left out."""
    done = {(row["backbone"], row["pixels"]) for row in book.probes()}
    left_out = dict(chosen.left_out)
    todo = [
        ProbeTask(arm.backbone, size, str(workers.log(f"probe-{arm.backbone.replace(':', '-')}-{size}")))
        for arm in (one.arm for one in chosen.candidates if not one.backbone.traits.from_scratch)
        for size in arm.pixels
        if (arm.backbone, size) not in done
    ]
    for task, news in driver.probes(workers, todo, screen):
        if isinstance(news, ProbeOutcome):
            book.keep_probe(task.backbone, task.pixels, news)
            screen.say(f"Probe: a linear head on {task.backbone} at {task.pixels} pixels: {percent(news.value)}")
        else:
            left_out[task.backbone] = news.error
            screen.say(f"Left out: {task.backbone}: {news.error}")
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


def _is_tested(book: Record) -> bool:
    best = book.best()
    return best is None or any(look["trial"] == best["number"] for look in book.looks())


def _test(lesson: Lesson, book: Record, root: Path, parts: Split, screen: Screen, again: bool = False) -> None:
    """Look at the test pictures with the winner, unless it has been looked at."""
    best = book.best()
    if best is None or (_is_tested(book) and not again):
        return
    start = time.monotonic()
    backbones = training.Backbones(lesson)
    evaluate.look(backbones, book, root, parts.part(TEST), parts.classes, best, screen.progress("Test"))
    book.add_seconds(test=time.monotonic() - start)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One driver a study. Raises StudyError where another is at work."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StudyError(
            f"{folder.resolve()} cannot be made: {error.strerror}.", "Run it where you may write."
        ) from error
    lock = FileLock(folder / "lock", timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise StudyError(
            f"Study {folder.name} is being worked on by another process.", "Wait for it, or stop it."
        ) from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _opened(folder: Path) -> Iterator[Record]:
    book = Record(folder / "record.db")
    try:
        yield book
    finally:
        book.close()


@contextmanager
def _timed(book: Record, start: float) -> Iterator[None]:
    """Add a run's time to the study's, also where it is cut off."""
    try:
        yield
    finally:
        book.add_seconds(total=time.monotonic() - start)
