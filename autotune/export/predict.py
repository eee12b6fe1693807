"""Predict labels and probabilities for new pictures, with a bundle, which runs without torch, or a study's winner."""

from __future__ import annotations

import csv
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from autotune.data.catalog import Progress
from autotune.data.decode import crop_square
from autotune.data.picture import UnreadableError, picture_suffixes, read_picture
from autotune.errors import BundleError, DataError, StudyError
from autotune.export import bundle
from autotune.export.bundle import UNKNOWN
from autotune.formats.onnx_session import OnnxSession, Output, Outputs, Run
from autotune.study.request import Resources
from autotune.text import plural, visible

BATCH = 32
BATCHES_AHEAD = 2  # decoded while the network runs


@dataclass(frozen=True)
class Classifier:
    """A loaded model of a study. run: pixels (N, 3, P, P) to its outputs. threshold: predictions below it are labelled
    "unknown", and so are pictures whose distance is more than 1.
    """

    study: str
    labels: tuple[str, ...]
    pixels: int
    interpolation: str
    threshold: float
    run: Run

    def predict(self, pictures: str | Path | Sequence[str | Path], top: int = 1) -> list[Prediction]:
        """Predict files, folders and patterns in order, with `top` labels each. An unreadable picture has `error`."""
        return list(predict_files(self, find_pictures(pictures), top))

    def answer(self, name: str, output: Output, top: int) -> Prediction:
        """Return the prediction for a picture from its output, with the `top` most probable labels."""
        probabilities, distance = output
        order = np.argsort(-probabilities, kind="stable")[: max(top, 1)]
        most_probable = tuple((self.labels[int(i)], float(probabilities[i])) for i in order)
        label, probability = most_probable[0]
        is_known = probability >= self.threshold and (distance is None or distance <= 1)
        return Prediction(name, label if is_known else UNKNOWN, probability, most_probable, distance=distance)


@dataclass(frozen=True)
class Prediction:
    """The prediction for one picture. top: the most probable labels with their probabilities. error: why it failed.

    distance: from what the model learned, more than 1 is unknown; None: the model does not measure it.
    """

    path: str
    label: str | None
    probability: float | None
    top: tuple[tuple[str, float], ...]
    error: str | None = None
    distance: float | None = None

    def to_json(self) -> dict[str, Any]:
        if self.error is not None:
            return {"path": self.path, "error": self.error}
        top = [{"label": label, "probability": probability} for label, probability in self.top]
        found = {"path": self.path, "label": self.label, "probability": self.probability, "top": top}
        return found if self.distance is None else {**found, "distance": self.distance}


def load(source: str | Path, resources: Resources | None = None,
         say: Callable[[str], None] = lambda _: None) -> Classifier:  # fmt: skip
    """Load the model of a bundle (a folder, or one of its ONNX files) or of a study's winner.

    say: is told if the study has no final model yet, so that its best trial answers. Raises BundleError if the bundle
    is incomplete or has changed, StudyError if the source is neither.
    """
    path = Path(source)
    try:
        opened = bundle.open_bundle(path) if bundle.is_bundle(path) else None
    except OSError as error:
        raise BundleError(f"{source} cannot be opened: {error.strerror}.", "Pass a bundle folder.") from error
    if opened:
        session = OnnxSession(opened.model)
        session.refuse_other_shapes(opened.labels, opened.pixels)
        return Classifier(
            opened.study, opened.labels, opened.pixels, opened.interpolation, opened.threshold, session.run
        )
    from autotune.study.summary import find_study

    try:
        folder = find_study(str(source))
    except StudyError as error:
        if path.is_dir():
            problem = f"{source} is neither a bundle (it has no {bundle.INDEX}) nor a study."
        elif path.name != str(source) or path.suffix == ".onnx":  # the name of a study may contain dots
            problem = f"{source} is no bundle." if path.exists() else f"{source} does not exist."
        else:
            raise
        raise BundleError(
            problem, "Pass a bundle folder or a study. `autotune export STUDY` writes a bundle."
        ) from error
    return _load_winner(folder, resources, say)


def find_pictures(sources: str | Path | Iterable[str | Path]) -> list[Path]:
    """Return given files, the pictures in given folders and subfolders, and the matches of patterns, in order. A source
    that matches nothing is returned unchanged; `predict_files` yields an error for it.

    Raises DataError if no source is given.
    """
    files: list[Path] = []
    for source in [sources] if isinstance(sources, (str, Path)) else sources:
        files.extend(_match(source) or [Path(source)])
    if not files:
        raise DataError("No pictures were given.", "Pass pictures, folders or patterns.")
    return files


def _match(source: str | Path) -> list[Path]:
    """Return the files of one source; empty if it matches nothing."""
    try:
        path = Path(source)
        if path.is_dir():
            return _pictures_below(path)
        if path.exists() or not set(str(source)) & set("*?["):
            return [path]
        return sorted(one for one in Path(path.anchor).glob(str(path.relative_to(path.anchor))) if one.is_file())
    except (OSError, ValueError):  # name too long, no permission, no pattern: opening the file gives a better error
        return []


def _pictures_below(folder: Path) -> list[Path]:
    known = picture_suffixes()
    inner = (path for path in sorted(folder.rglob("*")) if path.suffix.lower() in known and path.is_file())
    return [path for path in inner if not any(part.startswith(".") for part in path.relative_to(folder).parts)]


def predict_files(
    model: Classifier, files: Sequence[Path], top: int = 1, progress: Progress | None = None
) -> Iterator[Prediction]:
    """Yield predictions in order. The next batches are decoded in parallel while the network runs."""
    starts = range(0, len(files), BATCH)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        waiting: list[list[Future[NDArray[np.uint8] | str]]] = []
        for number, start in enumerate(starts):
            while len(waiting) <= BATCHES_AHEAD and number + len(waiting) < len(starts):
                ahead = starts[number + len(waiting)]
                waiting.append([pool.submit(read_square, model, file) for file in files[ahead : ahead + BATCH]])
            squares = [one.result() for one in waiting.pop(0)]
            yield from _predict_batch(model, files[start : start + BATCH], squares, top)
            if progress:
                progress(start + len(squares), len(files))


def read_square(model: Classifier, source: Path | bytes, most_pixels: int | None = None) -> NDArray[np.uint8] | str:
    """Return the pixels of a picture, (3, P, P), or why it cannot be read. source: a file, or its content."""
    try:
        if isinstance(source, Path) and source.is_dir():
            return "a folder without pictures"
        return crop_square(read_picture(source, most_pixels), model.pixels, model.interpolation)
    except UnreadableError as error:
        return str(error)
    except OSError as error:
        return f"cannot be opened: {error.strerror}"


def _predict_batch(
    model: Classifier, files: Sequence[Path], squares: Sequence[NDArray[np.uint8] | str], top: int
) -> Iterator[Prediction]:
    readable = [square for square in squares if not isinstance(square, str)]
    rows: Iterator[Output] = model.run(np.stack(readable)).rows() if readable else iter(())
    for file, square in zip(files, squares, strict=True):
        if isinstance(square, str):
            yield Prediction(str(file), None, None, (), square)
        else:
            yield model.answer(str(file), next(rows), top)


def read_names(names: Sequence[str]) -> list[str]:
    """Return the given names, with "-" replaced by those on stdin, one per line."""
    found: list[str] = []
    for name in names:
        if name == "-" and sys.stdin:
            found += [line.removesuffix("\r") for line in os.fsdecode(sys.stdin.buffer.read()).split("\n")]
        elif name != "-":
            found.append(name)
    return [name for name in found if name]


def write_predictions(
    predictions: Iterable[Prediction], style: str, labels: Sequence[str], out: TextIO
) -> list[Prediction]:
    """Write each prediction when it is made: "table", "json" (one per line) or "csv". Return those with an error."""
    errors = []
    width = max(len(name) for name in (*labels, UNKNOWN))
    rows = csv.writer(out, lineterminator="\n")
    if style == "csv":
        rows.writerow(("path", "label", "probability", "error"))
    for one in predictions:
        if one.error is not None:
            errors.append(one)
        if style == "json":
            out.write(json.dumps(one.to_json()) + "\n")
        elif style == "csv":
            rows.writerow((one.path, one.label, one.probability, one.error))
        else:
            out.write(visible(_table_row(one, width)) + "\n")
        out.flush()
    return errors


def _table_row(one: Prediction, width: int) -> str:
    if one.error is not None or one.probability is None:
        return f"{'-':{width}}        -  {one.path}: {one.error}"
    rest = ", ".join(f"{label} {100 * p:.1f} %" for label, p in one.top if label != one.label)
    more = f"  ({'candidates:' if one.label == UNKNOWN else 'then'} {rest})" if rest else ""
    return f"{one.label:{width}}  {100 * one.probability:5.1f} %  {one.path}{more}"


def refuse_missing(files: Sequence[Path]) -> None:
    """Raise DataError if none of the files exists, before a model is loaded, which takes seconds."""
    if not any(map(os.path.exists, files)):
        raise DataError(
            f"{files[0]} does not exist{f', nor do the other {len(files) - 1}' if len(files) > 1 else ''}.",
            "Pass pictures, folders or patterns.",
        )


def refuse_unreadable(errors: Sequence[Prediction], n: int) -> None:
    """Raise DataError if some of n pictures could not be read."""
    if errors:
        some = "; ".join(f"{one.path}: {one.error}" for one in errors[:3])
        raise DataError(
            f"{len(errors)} of {plural(n, 'file')} could not be read ({some}{'; ...' if len(errors) > 3 else ''}).",
            "Check these files, or leave them out." + (" The others were classified." if n > len(errors) else ""),
        )


def _load_winner(folder: Path, resources: Resources | None, say: Callable[[str], None]) -> Classifier:
    """Load the winner of a study, which runs with torch."""
    from autotune.study.listener import StudyListener
    from autotune.study.reopen import reopen_trial
    from autotune.study.storage.record import open_record

    with open_record(folder) as record:
        one = reopen_trial(folder, record, resources or Resources(), StudyListener())
        trained, test = one.trained, one.test
        if not one.is_decided:
            say(f"Study {folder.name} has no final model yet: trial {one.trial.number}, the best so far, predicts.")
    temperature = test.calibration.temperature if test and test.calibration else 1.0

    def run(squares: NDArray[np.uint8]) -> Outputs:
        return Outputs((trained.logits(squares) / temperature).softmax(1).numpy())

    return Classifier(folder.name, one.parts.classes, trained.pixels, trained.interpolation, 0.0, run)
