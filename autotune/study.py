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
from optuna.trial import Trial, TrialState

from autotune import evaluate, images, pixels, plan, plugins, record, space, splits, training
from autotune.augment import Subject
from autotune.batches import Labelled
from autotune.errors import StudyError, did_you_mean
from autotune.images import Picture
from autotune.plan import Plan
from autotune.record import Record
from autotune.screen import Screen, duration, in_words, percent, trial_line
from autotune.search import Search
from autotune.space import Arm, Settings
from autotune.splits import TEST, TRAIN, VALIDATION, Split
from autotune.store import cache_folder
from autotune.training import TIMEOUT, Epoch, Lesson, Outcome, ProbeOutcome
from autotune.workers import Banking, Died, Failed, ProbeTask, TrialTask, Worker, Workers

STUDIES = Path("studies")
MANIFEST = "manifest.csv"
MOST_FAILURES = 5  # in a row
MOST_STARTS = 3  # of a trial whose worker dies each time


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
    parts, root = _read(request, folder, settings, screen)
    device = plan.device(request.device)
    with _locked(folder), _opened(folder) as book:
        _claim(book, folder, settings, parts, root)
        read = time.monotonic()
        if book.fact("arms") is None or len(book.trials()) < request.trials or not _is_tested(book):
            side = int(sorted(p.side for p in parts.pictures)[len(parts.pictures) // 2])
            chosen = plan.make(settings, catalogue, request.weights, device, side, screen.say, _recorded_arms(book))
            weighed = _decided(settings, parts)
            lesson = _lesson(weighed, parts, chosen, request.workers, folder)
            _announce(screen, request, weighed, parts, chosen, book)
            _decode(lesson, parts, root, chosen, screen)
            book.add_seconds(read=time.monotonic() - start)
            with Workers(request.workers, lesson) as workers:
                arms = _probe(workers, chosen, book, screen, folder)
                tries = Search(folder / "trials.db", weighed, arms)
                if not book.fact("enqueued"):
                    tries.enqueue(arms)
                    book.note(enqueued=True)
                _run(_Loop(request, tries, workers, book, screen, start))
            _test(lesson, book, root, parts, screen)
        else:
            book.add_seconds(read=read - start)
        book.add_seconds(total=time.monotonic() - start)
        screen.close()
        return summary(book, folder)


def evaluate_again(name: str, request: Request, screen: Screen) -> dict[str, Any]:
    """Look at the test pictures once more with the winner; the record counts it."""
    folder = find(name)
    with _locked(folder), _opened(folder) as book:
        if book.best() is None:
            raise StudyError(f"Study {name} has no complete trial.", "Let it finish one: autotune search, the same as before.")
        settings = space.read(None, {name: book.fact("definition")[name] for name in ("metric", "seed")})
        parts = Split(tuple(book.fact("classes")), splits.read(folder / MANIFEST), (), {})
        catalogue = plugins.catalogue(request.plugins)
        arms = _recorded_arms(book) or {}
        winner = book.best()["params"]["backbone"]
        device = plan.device(request.device)
        chosen = plan.make(settings, catalogue, request.weights, device, 0, screen.say, {winner: arms[winner]})
        _test(_lesson(_decided(settings, parts), parts, chosen, 1, folder), book, Path(book.fact("root")), parts, screen, again=True)
        screen.close()
        return summary(book, folder)


def status(name: str) -> dict[str, Any]:
    """The summary of a study as it stands, also while it runs."""
    folder = find(name)
    with _opened(folder) as book:
        return summary(book, folder)


def find(name: str) -> Path:
    """A study's folder, by name or by path. Raises StudyError."""
    for folder in (STUDIES / name, Path(name)):
        if (folder / "record.db").is_file():
            return folder
    known = [file.parent.name for file in STUDIES.glob("*/record.db")]
    raise StudyError(f"There is no study {name!r} in {STUDIES.resolve()}.", did_you_mean(name, known))


def summary(book: Record, folder: Path) -> dict[str, Any]:
    """All that is known of a study, as plain values: what --json prints."""
    rows, arms = book.trials(), book.fact("arms", {})
    states = Counter(row["state"] for row in rows)
    looks = book.looks()
    definition = book.fact("definition", {})
    board = [
        {
            **{key: row[key] for key in ("number", "state", "value", "params", "epochs", "ended", "seconds")},
            **{key: row[key] for key in ("log_loss", "best_epoch", "trained_parameters", "error")},
            "words": in_words(row["params"], arms[row["params"]["backbone"]]),
        }
        for row in rows
    ]
    best = book.best()
    seconds = {"read": 0.0, "test": 0.0, "total": 0.0, **book.fact("seconds", {})}
    probes = book.probes()
    bank = sum(row["bank_seconds"] or 0.0 for row in (*rows, *probes))
    trials = sum((row["seconds"] or 0.0) - (row["bank_seconds"] or 0.0) for row in rows)
    return {
        "study": folder.name,
        "folder": str(folder.resolve()),
        "metric": definition.get("metric"),
        "classes": book.fact("classes", []),
        "pictures": book.fact("pictures", {}),
        "trials": {**{state: states[state] for state in record.STATES}, "total": len(rows)},
        "best": best and {
            **{key: best[key] for key in ("number", "value", "params", "log_loss", "checkpoint")},
            "checkpoint": str((folder / best["checkpoint"]).resolve()),
            "words": in_words(best["params"], arms[best["params"]["backbone"]]),
        },
        "leaderboard": board,
        "probes": probes,
        "left_out": book.fact("left_out", {}),
        "test": _look_of(best, looks),
        "seconds": {"bank": bank, "trials": trials, **seconds},
    }  # fmt: skip


@dataclass
class _Loop:
    """What the loop below holds in its hands."""

    request: Request
    tries: Search
    workers: Workers
    book: Record
    screen: Screen
    start: float

    def __post_init__(self) -> None:
        self.queue = self.tries.unfinished()
        self.running: dict[int, Trial] = {}
        self.params: dict[int, space.Params] = {}
        self.pruned: set[int] = set()
        self.starts: Counter[int] = Counter()
        self.progress = self.screen.progress("Trials")

    @property
    def is_late(self) -> bool:
        timeout = self.request.timeout
        return timeout is not None and time.monotonic() - self.start > timeout


def _run(loop: _Loop) -> None:
    """Give every idle worker a trial, hear what they say, until as many are finished as were asked for."""
    _catch_up(loop)
    while True:
        for worker in loop.workers.idle:
            if trial := _next(loop):
                _start(loop, worker, trial)
        if not loop.workers.busy:
            return
        for worker, task, news in loop.workers.events():
            assert isinstance(task, TrialTask)
            trial = loop.running[task.number]
            if isinstance(news, Epoch):
                loop.book.keep_epoch(task.number, news)
                worker.answer(TIMEOUT if loop.is_late else _verdict(loop, trial, news))
            elif isinstance(news, Banking):
                loop.screen.progress("Bank")(news.done, news.total)
            elif isinstance(news, Died):
                _put_back(loop, trial, news)
            else:
                _finish(loop, trial, news)


def _next(loop: _Loop) -> Trial | None:
    if loop.is_late:
        return None
    if loop.queue:
        return loop.queue.pop(0)
    if loop.tries.n_finished() + len(loop.running) >= loop.request.trials:
        return None
    return loop.tries.ask()


def _start(loop: _Loop, worker: Worker, trial: Trial) -> None:
    params = loop.tries.params(trial)
    loop.running[trial.number], loop.params[trial.number] = trial, params
    loop.starts[trial.number] += 1
    log = loop.workers.folder / "logs" / f"trial-{trial.number:04d}.log"
    worker.give(TrialTask(trial.number, params, str(log)))


def _verdict(loop: _Loop, trial: Trial, row: Epoch) -> str | None:
    return training.PRUNED if loop.tries.should_prune(trial, row) else None


def _put_back(loop: _Loop, trial: Trial, news: Died) -> None:
    """A killed trial is queued again; one that takes its worker down each time has failed."""
    del loop.running[trial.number]
    if loop.starts[trial.number] < MOST_STARTS:
        loop.screen.say(f"trial {trial.number:3d}  its process ended ({news.exit_code}); it starts again")
        loop.queue.insert(0, trial)
        return
    error = f"its process ended {MOST_STARTS} times (exit code {news.exit_code}), as it does without enough memory"
    loop.running[trial.number] = trial
    _finish(loop, trial, Failed(error, error))


def _finish(loop: _Loop, trial: Trial, news: Outcome | ProbeOutcome | Failed) -> None:
    """The record is written first: what it holds is told to Optuna at the next start, should this process end here."""
    number = trial.number
    params = loop.params[number]
    if isinstance(news, Failed):
        loop.book.keep_failure(number, params, news.error, news.trace)
    else:
        assert isinstance(news, Outcome)
        loop.book.keep_outcome(number, params, news)
    del loop.running[number]
    row = loop.book.finished()[number]
    _tell(loop.tries, trial, row)
    best = loop.book.best()
    arm = loop.book.fact("arms")[params.backbone]
    loop.screen.say(trial_line(row, arm, is_best=best is not None and best["number"] == number))
    loop.progress(loop.tries.n_finished(), loop.request.trials)
    if loop.book.last_states(MOST_FAILURES) == [record.FAILED] * MOST_FAILURES:
        raise StudyError(
            f"{MOST_FAILURES} trials in a row have failed, the last by {row['error']}.",
            f"Read {loop.workers.folder / 'logs' / f'trial-{number:04d}.log'}; the same command goes on.",
        )


def _tell(tries: Search, trial: Trial, row: Mapping[str, Any]) -> None:
    states = {record.COMPLETE: TrialState.COMPLETE, record.PRUNED: TrialState.PRUNED, record.FAILED: TrialState.FAIL}
    tries.tell(trial, row["value"], states[row["state"]])


def _catch_up(loop: _Loop) -> None:
    """Tell Optuna of trials that the record has as finished and a killed driver did not get to tell."""
    finished = loop.book.finished()
    for trial in list(loop.queue):
        if trial.number in finished:
            _tell(loop.tries, trial, finished[trial.number])
            loop.queue.remove(trial)


def _folder(request: Request) -> Path:
    name = request.name or (images.SAMPLE if request.data is None else request.data.resolve().name)
    if not name or "/" in name or "\\" in name or name.startswith("."):
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
    own = splits.read(manifest) if manifest.is_file() else ()
    catalog = images.read(root, {p.path: p for p in own}, screen.progress("Reading"))
    if not request.skip_unreadable:
        images.refuse_many_bad(catalog)
    screen.close()
    if own:
        _refuse_changed(folder, own, catalog.pictures)
        kept = {p.path: p for p in own}
        return Split(catalog.classes, tuple(kept[p.path] for p in catalog.pictures if p.path in kept), catalog.set_aside, {}), root
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
            f"Study {folder.name} was made from other pictures: {len(gone)} are gone or changed, {len(new)} are new ({some}).",
            f"Start a new study that keeps every picture's side: --study NEW --manifest {folder / MANIFEST}",
        )


def _claim(book: Record, folder: Path, settings: Settings, parts: Split, root: Path) -> None:
    """Write down what this study is, once; later runs must ask for the same."""
    asked = space.definition(settings)
    known = book.fact("definition")
    if known is None:
        ignore = folder / ".gitignore"
        ignore.write_text("*\n!study.toml\n", encoding="utf-8")
        splits.write(parts, folder / MANIFEST)
        aside = [asdict(one) for one in parts.set_aside]
        book.note(classes=parts.classes, pictures=parts.counts, root=str(root), set_aside=aside, split=parts.identity)
        book.note(definition=asked)
    elif differs := space.differences(known, asked):
        raise StudyError(
            f"Study {folder.name} exists with another definition: {'; '.join(differs)}.",
            "Ask for the same again, or start another study: --study NEW",
        )
    elif book.fact("split") != parts.identity:
        raise StudyError(
            f"The manifest of study {folder.name} is not the one it was made with.",
            f"Put {folder / MANIFEST} back, or start another study: --study NEW",
        )


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
        epochs=settings.epochs,
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


def _announce(screen: Screen, request: Request, settings: Settings, parts: Split, chosen: Plan, book: Record) -> None:
    counts = parts.counts
    left = request.trials - len(book.trials())
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
        screen.say(f"Backbone: {one.backbone.name} at {sizes} pixels, {depths}, weights {one.weights.reason}.")
    seconds = plan.estimate(chosen, settings, left, counts[TRAIN], counts[VALIDATION])
    screen.say(
        f"Plan: {left} trials of up to {settings.epochs} epochs, {settings.sampler} and {settings.pruner}, "
        f"on {chosen.device}; about {duration(seconds)}."
    )


def _span(depths: Sequence[int]) -> str:
    return f"{min(depths)} to {max(depths)}" if len(depths) > 1 else str(depths[0])


def _decode(lesson: Lesson, parts: Split, root: Path, chosen: Plan, screen: Screen) -> None:
    pictures = (*parts.part(TRAIN), *parts.part(VALIDATION))
    for one in chosen.candidates:
        how = one.backbone.traits.interpolation
        for size in one.arm.pixels:
            pixels.fill(pixels.store(size, how), root, pictures, how, screen.progress(f"Decoding to {size} pixels"))


def _probe(workers: Workers, chosen: Plan, book: Record, screen: Screen, folder: Path) -> tuple[Arm, ...]:
    """A linear probe for each pretrained backbone and size; the best come first. One that raises is left out."""
    done = {(row["backbone"], row["pixels"]) for row in book.probes()}
    left_out = dict(chosen.left_out)
    todo = [
        ProbeTask(one.backbone.name, size, str(folder / "logs" / f"probe-{one.backbone.name.replace(':', '-')}-{size}.log"))
        for one in chosen.candidates
        for size in one.arm.pixels
        if not one.backbone.traits.from_scratch and (one.backbone.name, size) not in done
    ]
    for task, news in _each_done(workers, todo, screen):
        if isinstance(news, ProbeOutcome):
            book.keep_probe(task.backbone, task.pixels, news)
            screen.say(f"Probe: a linear head on {task.backbone} at {task.pixels} pixels: {percent(news.value)}")
        else:
            left_out[task.backbone] = news.error
            screen.say(f"Left out: {task.backbone}: {news.error}")
    kept = [one for one in chosen.candidates if one.backbone.name not in left_out]
    if not kept:
        raise StudyError("Every backbone has failed its probe.", f"Read {folder / 'logs'}; the same command tries again.")
    order = [row["backbone"] for row in book.probes()]
    kept.sort(key=lambda one: order.index(one.backbone.name) if one.backbone.name in order else len(order))
    if book.fact("arms") is None:
        arms = {
            one.backbone.name: {
                "label": one.backbone.label,
                "stages": one.anatomies[0].stages,
                "from_scratch": one.backbone.traits.from_scratch,
                "pixels": one.arm.pixels,
                "depths": one.depths,
            }
            for one in kept
        }
        book.note(arms=arms, left_out=left_out)
    return tuple(one.arm for one in kept)


def _each_done(
    workers: Workers, todo: list[ProbeTask], screen: Screen
) -> Iterator[tuple[ProbeTask, ProbeOutcome | Failed]]:
    """Run probes on all workers. One whose worker dies has failed."""
    waiting = list(todo)
    while waiting or workers.busy:
        for worker in workers.idle[: len(waiting)]:
            worker.give(waiting.pop(0))
        for _, task, news in workers.events():
            assert isinstance(task, ProbeTask)
            if isinstance(news, Banking):
                screen.progress(f"Bank of {task.backbone}")(news.done, news.total)
            elif isinstance(news, Died):
                error = f"its process ended (exit code {news.exit_code}), as it does without enough memory"
                yield task, Failed(error, error)
            elif isinstance(news, (ProbeOutcome, Failed)):
                yield task, news


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


def _look_of(best: Mapping[str, Any] | None, looks: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """The latest look with this winner; how often the test pictures were looked at in all."""
    own = [look for look in looks if best and look["trial"] == best["number"]]
    return {"looks": len(looks), "trial": own[-1]["trial"], **own[-1]["scores"]} if own else None


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One driver a study. Raises StudyError where another is at work."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / "lock", timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise StudyError(f"Study {folder.name} is being worked on by another process.", "Wait for it, or stop it.") from error
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
