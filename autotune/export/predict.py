"""Predict: labels and probabilities for new pictures, by a bundle, which needs no torch, or by a study's winner."""

from __future__ import annotations

import csv
import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from autotune.data.catalog import Progress
from autotune.data.decode import crop_square
from autotune.data.picture import UnreadableError, read_picture
from autotune.errors import BundleError, DataError, StudyError
from autotune.export import bundle
from autotune.export.bundle import UNKNOWN, Run
from autotune.study.request import Resources

BATCH = 32
BATCHES_AHEAD = 2  # decoded while the network runs


@dataclass(frozen=True)
class Classifier:
    """A loaded model. run: pixels (N, 3, P, P) to probabilities (N, C). threshold: below it the answer is "unknown"."""

    labels: tuple[str, ...]
    pixels: int
    interpolation: str
    threshold: float
    run: Run

    def predict(self, pictures: str | Path | Sequence[str | Path], top: int = 1) -> list[Prediction]:
        """Answers for files, folders and patterns, in order; `top` likeliest labels each. A bad picture has `error`."""
        return list(predict_files(self, find_pictures(pictures), top))


@dataclass(frozen=True)
class Prediction:
    """The answer for one picture. top: the likeliest labels with their probabilities. error: why there are none."""

    path: str
    label: str | None
    probability: float | None
    top: tuple[tuple[str, float], ...]
    error: str | None = None

    def to_json(self) -> dict[str, Any]:
        if self.error is not None:
            return {"path": self.path, "error": self.error}
        top = [{"label": label, "probability": probability} for label, probability in self.top]
        return {"path": self.path, "label": self.label, "probability": self.probability, "top": top}


def load(source: str | Path, resources: Resources | None = None) -> Classifier:
    """The model of a bundle (a folder, or one of its ONNX files), or of a study's winner.

    Raises BundleError where the bundle is not whole, StudyError where there is neither.
    """
    path = Path(source)
    try:
        opened = bundle.open_bundle(path) if bundle.is_bundle(path) else None
    except OSError as error:
        raise BundleError(f"{source} cannot be opened: {error.strerror}.", "Name a bundle's folder.") from error
    if opened:
        run = bundle.OnnxSession(opened.model).probabilities
        return Classifier(opened.labels, opened.pixels, opened.interpolation, opened.threshold, run)
    from autotune.study.summary import find_study

    try:
        folder = find_study(str(source))
    except StudyError as error:
        if path.is_dir():
            problem = f"{source} is neither a bundle (it has no {bundle.INDEX}) nor a study."
            raise BundleError(problem, "Name a bundle's folder, or a study: autotune export STUDY") from error
        raise
    return _load_winner(folder, resources)


def find_pictures(sources: str | Path | Iterable[str | Path]) -> list[Path]:
    """Files as named, the pictures in folders and below them, and what patterns match, in order. A source that matches
    nothing is returned as it is, and `predict_files` gives it an error in its place.

    Raises DataError where nothing at all is named.
    """
    files: list[Path] = []
    for source in [sources] if isinstance(sources, (str, Path)) else sources:
        files.extend(_match(source) or [Path(source)])
    if not files:
        raise DataError("No picture was named.", "Name pictures, folders of them, or patterns.")
    return files


def _match(source: str | Path) -> list[Path]:
    """The files of one source; none where it matches nothing."""
    try:
        path = Path(source)
        if path.is_dir():
            return _pictures_below(path)
        if path.exists() or not set(str(source)) & set("*?["):
            return [path]
        return sorted(one for one in Path(path.anchor).glob(str(path.relative_to(path.anchor))) if one.is_file())
    except (OSError, ValueError):  # name too long, no permission, not a pattern: opening the file says more
        return []


def _pictures_below(folder: Path) -> list[Path]:
    known = Image.registered_extensions()
    inner = (path for path in sorted(folder.rglob("*")) if path.suffix.lower() in known and path.is_file())
    return [path for path in inner if not any(part.startswith(".") for part in path.relative_to(folder).parts)]


def predict_files(
    model: Classifier, files: Sequence[Path], top: int = 1, progress: Progress | None = None
) -> Iterator[Prediction]:
    """Predictions in order. The next batches are decoded, in parallel, while the network runs on the present one."""
    starts = range(0, len(files), BATCH)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        waiting: list[list[Future[NDArray[np.uint8] | str]]] = []
        for number, start in enumerate(starts):
            while len(waiting) <= BATCHES_AHEAD and number + len(waiting) < len(starts):
                ahead = starts[number + len(waiting)]
                waiting.append([pool.submit(_read_square, model, file) for file in files[ahead : ahead + BATCH]])
            squares = [one.result() for one in waiting.pop(0)]
            yield from _predict_batch(model, files[start : start + BATCH], squares, top)
            if progress:
                progress(start + len(squares), len(files))


def _read_square(model: Classifier, file: Path) -> NDArray[np.uint8] | str:
    """A picture's pixels (3, P, P), or why it cannot be read."""
    try:
        if file.is_dir():
            return "a folder without pictures"
        return crop_square(read_picture(file), model.pixels, model.interpolation)
    except UnreadableError as error:
        return str(error)
    except OSError as error:
        return f"cannot be opened: {error.strerror}"


def _predict_batch(
    model: Classifier, files: Sequence[Path], squares: Sequence[NDArray[np.uint8] | str], top: int
) -> Iterator[Prediction]:
    readable = [square for square in squares if not isinstance(square, str)]
    rows: Iterator[NDArray[np.float32]] = iter(model.run(np.stack(readable)) if readable else ())
    for file, square in zip(files, squares, strict=True):
        if isinstance(square, str):
            yield Prediction(str(file), None, None, (), square)
            continue
        row = next(rows)
        order = np.argsort(-row, kind="stable")[: max(top, 1)]
        likeliest = tuple((model.labels[int(i)], float(row[i])) for i in order)
        label, probability = likeliest[0]
        yield Prediction(str(file), label if probability >= model.threshold else UNKNOWN, probability, likeliest)


def read_names(names: Sequence[str]) -> list[str]:
    """The given names, with "-" replaced by those on stdin, one a line."""
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
    """Write predictions as they come: "table", "json" (a line each) or "csv". Returns those that are errors."""
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
            out.write(_table_row(one, width) + "\n")
        out.flush()
    return errors


def _table_row(one: Prediction, width: int) -> str:
    if one.error is not None or one.probability is None:
        return f"{'-':{width}}        -  {one.path}: {one.error}"
    rest = ", ".join(f"{label} {100 * p:.1f} %" for label, p in one.top if label != one.label)
    more = f"  ({'perhaps' if one.label == UNKNOWN else 'then'} {rest})" if rest else ""
    return f"{one.label:{width}}  {100 * one.probability:5.1f} %  {one.path}{more}"


def refuse_unreadable(errors: Sequence[Prediction], n: int) -> None:
    """Raise DataError where some of n pictures could not be read."""
    if errors:
        some = "; ".join(f"{one.path}: {one.error}" for one in errors[:3])
        raise DataError(
            f"{len(errors)} of {n} pictures could not be read ({some}{'; ...' if len(errors) > 3 else ''}).",
            "Fix them or leave them out; the others are answered.",
        )


def _load_winner(folder: Path, resources: Resources | None) -> Classifier:
    """The winner of a study, run by torch."""
    from autotune.study.listener import StudyListener
    from autotune.study.record import open_record
    from autotune.study.reopen import reopen_trial

    with open_record(folder) as record:
        one = reopen_trial(folder, record, resources or Resources(), StudyListener())
        trained = one.trained
        test = record.evaluation(one.trial.number)
    temperature = test.calibration.temperature if test and test.calibration else 1.0

    def run(squares: NDArray[np.uint8]) -> NDArray[np.float32]:
        probabilities: NDArray[np.float32] = (trained.logits(squares) / temperature).softmax(1).numpy()
        return probabilities

    return Classifier(one.parts.classes, trained.pixels, trained.interpolation, 0.0, run)
