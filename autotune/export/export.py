"""Export: a trial becomes a bundle, proven on every validation picture before it is handed over."""

from __future__ import annotations

import errno
import glob
import json
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from autotune.cache.pixels import read_square
from autotune.data import decode
from autotune.data.split import TRAIN, VALIDATION
from autotune.errors import BundleError, ConfigError, StudyError, did_you_mean
from autotune.export import bundle, graph
from autotune.export.bundle import MODELS
from autotune.export.model_card import write_model_card
from autotune.export.refit import refit_trial
from autotune.export.runner import InferenceJob
from autotune.export.verify import PROVEN, Reference, VerifiedFile, refuse_unverified, verify_file
from autotune.search.plan import pick_device
from autotune.study.evaluate import class_numbers, score_logits
from autotune.study.listener import StudyListener
from autotune.study.record import lock_study, open_record
from autotune.study.reopen import FinishedTrial, reopen_trial
from autotune.study.request import Resources
from autotune.study.rows import Evaluation
from autotune.study.summary import find_study
from autotune.text import percent
from autotune.training import calibration
from autotune.training.metrics import find_metric
from autotune.training.restore import TrainedNetwork, picture_logits

SECONDS_OF_A_DAY = 86_400
CALIBRATION_PICTURES = 128  # that int8's ranges are taken from


@dataclass(frozen=True)
class ExportRequest:
    """What a user asks of an export. out: None is the study's own folder bundle/. formats: beside onnx, which is
    always there. precision: find the threshold that answers with it on validation.
    """

    out: Path | None = None
    formats: tuple[str, ...] = ()
    trial: int | None = None
    refit: bool = False
    threshold: float | None = None
    precision: float | None = None


@dataclass(frozen=True)
class FittedAnswers:
    """What was fitted on validation. answered: at the threshold, how many pictures of each part stay answered."""

    temperature: float
    threshold: float
    answered: dict[str, calibration.AnsweredCount]


def export_trial(name: str, request: ExportRequest, resources: Resources, listener: StudyListener) -> dict[str, Any]:
    """Write a bundle of a study's winner, or of another trial, and prove it. Returns what is told of it.

    Raises BundleError where a format is not proven: it is then not in the bundle, and where it is model.onnx there is
    none. Raises StudyError for a study without a finished trial, ConfigError for a threshold that cannot be.
    """
    formats = _formats(request)
    folder = find_study(name)
    with lock_study(folder), open_record(folder) as record:
        # On the CPU, where the exported files are run: a GPU's convolutions round more coarsely than the proof allows.
        one = reopen_trial(folder, record, replace(resources, device="cpu"), listener, request.trial)
        _refuse_labels(one, request)
        with _handed_over(request.out or folder / "bundle") as (unfinished, out):
            logits = picture_logits(one.trained, one.root, one.parts.part(VALIDATION), listener.progress("Validation"))
            scores = _checked(one, logits)
            fitted = _fitted(one, logits, scores, request)
            model = one.trained
            if request.refit:
                model = refit_trial(one, pick_device(resources.device), listener)
                logits = picture_logits(model, one.root, one.parts.part(VALIDATION), listener.progress("Validation"))
            reference = _reference(one, logits, fitted)
            table = _written(one, model, formats, fitted, reference, unfinished, resources, listener)
            facts = {
                "study": folder.name, "trial": one.trial.number, "folder": str(out), "refit": request.refit,
                "right": reference.right, **asdict(fitted), "table": [asdict(row) for row in table],
            }  # fmt: skip
            _describe(one, scores, facts, unfinished)
        record.keep_export(one.trial.number, str(out), facts)
    listener.close()
    return facts


def refused_formats(facts: dict[str, Any]) -> BundleError | None:
    """The error for the formats that were not handed over beside the others that were."""
    bad = [f"{row['file']}: {row['verdict']}" for row in facts["table"] if not is_proven(row)]
    if not bad:
        return None
    return BundleError(
        f"Not handed over: {'; '.join(bad)}.",
        f"The rest of the bundle stands in {facts['folder']}. For this format export another trial: --trial N",
    )


def is_proven(row: dict[str, Any]) -> bool:
    return bool(row["verdict"] == PROVEN)


def _formats(request: ExportRequest) -> tuple[str, ...]:
    for one in request.formats:
        if one not in MODELS:
            raise ConfigError(f"There is no format {one!r}.", did_you_mean(one, MODELS))
    for name, value in (("threshold", request.threshold), ("precision", request.precision)):
        if value is not None and not 0 < value <= 1:
            raise ConfigError(f"A {name} of {value:g} cannot be.", "Give a number above 0 and at most 1.")
    if request.threshold is not None and request.precision is not None:
        raise ConfigError("--threshold and --precision both say when to answer.", "Give one of them.")
    bundle.require_onnxruntime()
    return tuple(dict.fromkeys(("onnx", *request.formats)))


def _refuse_labels(one: FinishedTrial, request: ExportRequest) -> None:
    """labels.txt has a class a line, and "unknown" is what a threshold answers."""
    classes = one.parts.classes
    if broken := [name for name in classes if name.splitlines() != [name]]:
        raise BundleError(f"Class {broken[0]!r} does not fit a line of labels.txt.", "Rename its folder; search anew.")
    if bundle.UNKNOWN in classes and (request.threshold or request.precision):
        raise BundleError(
            f"A class is named {bundle.UNKNOWN!r}, which is also the answer below a threshold.",
            "Leave the threshold out, or rename the class's folder and search anew.",
        )


@contextmanager
def _handed_over(out: Path) -> Iterator[tuple[Path, Path]]:
    """A folder to write into, which becomes `out` when all has gone well. Raises BundleError where `out` is taken."""
    try:
        out = out.resolve()
        if out.exists() and (not out.is_dir() or any(out.iterdir()) or out.is_mount()):
            raise BundleError(f"{out} is there and is not an empty folder.", "Name another folder, or one in it.")
        out.parent.mkdir(parents=True, exist_ok=True)
        for left in out.parent.glob(f".{glob.escape(out.name)}.unfinished-*"):
            if time.time() - left.stat().st_mtime > SECONDS_OF_A_DAY:  # by an export that was killed, not one at work
                shutil.rmtree(left)
        unfinished = Path(tempfile.mkdtemp(prefix=f".{out.name}.unfinished-", dir=out.parent))
    except (OSError, RuntimeError) as error:  # RuntimeError: links that go round in a circle
        reason = getattr(error, "strerror", None) or error
        raise BundleError(f"{out} cannot be made: {reason}.", "Name a folder that you may write.") from error
    try:
        yield unfinished, out
        unfinished.chmod(0o755)  # mkdtemp's is for its owner alone, and so is what safetensors writes
        for part in unfinished.iterdir():
            part.chmod(0o644)
        if out.exists():
            out.rmdir()
        unfinished.rename(out)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise BundleError(f"{out} cannot be written: {error.strerror}.", "Free some disk space; then again.") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _checked(one: FinishedTrial, logits: Tensor) -> Evaluation:
    """The trained network's scores on validation, from the files, which must be the trial's within one picture."""
    metric, pictures = one.settings.metric, one.parts.part(VALIDATION)
    if not logits.isfinite().all():
        raise StudyError(f"Trial {one.trial.number} answers with no numbers.", "Export another one: --trial N")
    temperature = calibration.fit_temperature(logits, class_numbers(pictures, one.parts.classes))
    scores = score_logits(metric, logits, pictures, one.parts.classes, temperature)
    allowed = find_metric(metric).change_by_one([row.n for row in scores.per_class.values()])
    if abs(scores.value - (one.trial.value or 0.0)) > allowed + 1e-9:
        raise StudyError(
            f"Trial {one.trial.number} put together again scores {percent(scores.value)} on validation; "
            f"the study measured {percent(one.trial.value)}.",
            "Name the same --weights and --plugins as before; if they are the same, this is a bug: please report it.",
        )
    return scores


def _fitted(one: FinishedTrial, logits: Tensor, scores: Evaluation, request: ExportRequest) -> FittedAnswers:
    assert scores.calibration
    temperature = scores.calibration.temperature
    confidence, right = np.array(scores.confidence), np.array(scores.right)
    at = request.threshold or 0.0
    if request.precision is not None:
        at = calibration.find_threshold(confidence, right, request.precision)
    answered = {}
    if at:
        answered["validation"] = calibration.count_answered(confidence, right, at)
        test = one.record.evaluation(one.trial.number)
        if test and test.confidence:
            answered["test"] = calibration.count_answered(np.array(test.confidence), np.array(test.right), at)
    return FittedAnswers(temperature, at, answered)


def _reference(one: FinishedTrial, logits: Tensor, fitted: FittedAnswers) -> Reference:
    pictures, classes = one.parts.part(VALIDATION), one.parts.classes
    labels = class_numbers(pictures, classes).numpy()
    probabilities = (logits / fitted.temperature).softmax(1).numpy()
    return Reference(tuple(p.path for p in pictures), labels, classes, probabilities)


def _written(one: FinishedTrial, model: TrainedNetwork, formats: Sequence[str], fitted: FittedAnswers,
             reference: Reference, folder: Path, resources: Resources,
             listener: StudyListener) -> list[VerifiedFile]:  # fmt: skip
    """Write each format and prove it. One that is not proven is removed; without model.onnx there is no bundle."""
    assembled = graph.assemble_graph(model, fitted.temperature)
    program = graph.trace_graph(assembled, model.pixels, model.backbone.name)
    plugins = tuple(str(place.resolve()) for place in resources.plugins)
    rows = []
    for name in formats:
        file = folder / MODELS[name]
        if name == "onnx":
            graph.write_onnx(program, model.pixels, file)
        elif name == "int8":
            graph.write_int8(folder / MODELS["onnx"], file, _calibration(one, model))
        elif name == "pt2":
            graph.write_pt2(program, file)
        else:
            graph.write_safetensors(assembled, {"backbone": model.backbone.name}, file)
        listener.say(f"Proving {file.name} on {len(reference.paths)} validation pictures")
        task = InferenceJob(name, str(file), (), model.pixels, model.interpolation, model.backbone.name, plugins)
        row = verify_file(task, reference, one.root)
        rows.append(row)
        if name == "onnx":
            refuse_unverified(row)
        elif row.verdict != PROVEN:
            file.unlink()
    return rows


def _calibration(one: FinishedTrial, model: TrainedNetwork) -> list[Any]:
    """Training pictures for int8's ranges, evenly from the fixed order of the split."""
    train = one.parts.part(TRAIN)
    chosen = train[:: max(1, len(train) // CALIBRATION_PICTURES)][:CALIBRATION_PICTURES]
    return [read_square(one.root / p.path, model.pixels, model.interpolation) for p in chosen]


def _describe(one: FinishedTrial, scores: Evaluation, facts: dict[str, Any], folder: Path) -> None:
    """Write all parts but the models, and seal the bundle."""
    labels = one.parts.classes
    (folder / bundle.LABELS).write_text("".join(f"{name}\n" for name in labels), encoding="utf-8")
    how = bundle.preprocessing(one.trained.pixels, one.trained.interpolation, facts["threshold"], labels)
    (folder / bundle.PREPROCESSING).write_text(json.dumps(how, indent=2) + "\n", encoding="utf-8")
    shutil.copyfile(str(decode.__file__), folder / bundle.SCRIPT)
    write_model_card(folder / bundle.CARD, one, scores, facts)
    bundle.seal_bundle(folder, {"study": facts["study"], "trial": facts["trial"]})
