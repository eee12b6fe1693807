"""Export: write a trial as a bundle and verify each of its models on every validation picture."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from autotune.cache.pixels import read_square
from autotune.data import decode
from autotune.data.split import TRAIN
from autotune.errors import BundleError, ConfigError, DataError, StudyError
from autotune.export import bundle, novelty
from autotune.export.fixtures import write_fixtures
from autotune.export.model_card import write_model_card
from autotune.export.novelty import FittedNovelty, count_foreign
from autotune.export.predict import Classifier, find_pictures
from autotune.export.result import ExportResult, FittedCalibration, UnknownScore
from autotune.export.staging import staged_folder
from autotune.export.validation import build_reference, calibrate, unseen_scores, validation_features
from autotune.export.verify import VerifiedFile, require_verified, verify_file
from autotune.export.web import PAGE, RESIZE
from autotune.formats import graph
from autotune.formats.graph import TracedModel
from autotune.formats.inference import InferenceJob, ModelFile
from autotune.formats.onnx_session import OnnxSession
from autotune.formats.table import ONNX, ExportFormat, find_format
from autotune.formats.tolerance import Reference
from autotune.study.costs import measure_study
from autotune.study.front import find_front
from autotune.study.listener import StudyListener
from autotune.study.reopen import FinishedTrial, reopen_trial
from autotune.study.request import Resources
from autotune.study.storage.evaluations import Evaluation
from autotune.study.storage.lock import lock_study
from autotune.study.storage.record import Record, open_record
from autotune.study.summary import find_study, study_status
from autotune.text import plural
from autotune.training.novelty import NoveltyScore
from autotune.training.restore import TrainedNetwork

N_CALIBRATION_PICTURES = 128  # for the ranges of a quantised format


@dataclass(frozen=True)
class ExportRequest:
    """The options of an export. out: None for bundle/ in the study folder. formats: in addition to onnx, which is
    always written. fastest: export the fastest trial within one standard error of the best. precision: find the
    threshold that reaches it on held-out pictures. unknowns: a folder with pictures of none of the classes, to measure
    how many of them are called unknown.
    """

    out: Path | None = None
    formats: tuple[str, ...] = ()
    trial: int | None = None
    fastest: bool = False
    threshold: float | None = None
    precision: float | None = None
    unknowns: Path | None = None


def export_trial(name: str, request: ExportRequest, resources: Resources, listener: StudyListener) -> ExportResult:
    """Write a bundle of a study's final model, or of a trial's own network, and verify its models.

    A rejected model is not in the bundle; its verdict is the reason. If model.onnx is rejected, BundleError is raised
    and no bundle is written. Raises StudyError for a study without a complete trial, ConfigError for an invalid
    threshold.
    """
    formats = _check_request(request)
    foreign = _foreign_pictures(request.unknowns)
    folder = find_study(name)
    with lock_study(folder), open_record(folder) as record:
        # On the CPU, like the exported models: a GPU's convolutions round more coarsely than the tolerance allows.
        number = _fastest(name, record, resources, listener) if request.fastest else request.trial
        finished = reopen_trial(folder, record, replace(resources, device="cpu"), listener, number)
        _refuse_class_names(finished.parts.classes, request)
        with staged_folder(request.out or folder / "bundle", folder.name) as (staging, out):
            network = finished.trained
            scores = unseen_scores(finished, listener)
            calibration = calibrate(finished, scores, request.threshold, request.precision)
            fitted = None if bundle.UNKNOWN in finished.parts.classes else novelty.fit(finished, listener)
            features = validation_features(finished, network, listener)
            score = None if fitted is None else fitted.score
            reference = build_reference(finished, features, calibration.temperature, score)
            model = _trace(finished, network, calibration.temperature, score, resources.plugins)
            files = _write_models(model, formats, reference, staging, listener)
            unknown = _unknown(finished, fitted, scores, calibration, staging, request.unknowns, foreign)
            result = ExportResult(
                folder.name, finished.trial.number, finished.how, out, reference.correct, calibration, unknown, files
            )
            _write_documents(finished, scores, result, staging)
        record.keep_export(result.trial, str(out), result.to_json(), is_final=finished.final is not None)
    listener.close()
    return result


def _check_request(request: ExportRequest) -> tuple[ExportFormat, ...]:
    """Return the formats to write, onnx first. Raises ConfigError, and BundleError if a module is not installed."""
    formats = tuple(dict.fromkeys((ONNX, *map(find_format, request.formats))))
    for name, value in (("threshold", request.threshold), ("precision", request.precision)):
        if value is not None and not 0 < value <= 1:
            raise ConfigError(f"The {name} cannot be {value:g}.", "Use a number above 0 and at most 1.")
    if request.threshold is not None and request.precision is not None:
        raise ConfigError("--threshold and --precision both set the threshold.", "Use only one of them.")
    if request.fastest and request.trial is not None:
        raise ConfigError("--fastest and --trial both choose the trial.", "Use only one of them.")
    for format in formats:
        format.require_modules()
    return formats


def _foreign_pictures(folder: Path | None) -> list[Path]:
    """Return the pictures of a folder of foreign ones. Raises DataError if it does not exist, or has none."""
    if folder is None:
        return []
    found = find_pictures(folder) if folder.is_dir() else []
    if not any(map(Path.is_file, found)):
        raise DataError(f"{folder} is no folder with pictures.", "Pass pictures of none of the classes: --unknowns DIR")
    return found


def _unknown(finished: FinishedTrial, fitted: FittedNovelty | None, scores: Evaluation, calibration: FittedCalibration,
             folder: Path, source: Path | None, foreign: Sequence[Path]) -> UnknownScore | None:  # fmt: skip
    """Return what the distance refuses: of known pictures, and of foreign ones. folder: of the bundle.

    None if there is no distance.
    """
    if fitted is None:
        return None
    found = UnknownScore(len(fitted.known), int((fitted.known > 1).sum()))
    if source is None:
        return found
    network = finished.trained
    run = OnnxSession(folder / ONNX.file).run
    model = Classifier(
        finished.folder.name, finished.parts.classes, network.pixels, network.interpolation, calibration.threshold, run
    )
    return replace(found, foreign=count_foreign(source, foreign, model, fitted.known, scores.confidence))


def _fastest(name: str, record: Record, resources: Resources, listener: StudyListener) -> int | None:
    """Return the number of the fastest trial within one standard error of the best; None: it is the final model's."""
    summary, costs = study_status(name), record.facts().costs
    front = find_front(summary, costs) or find_front(summary, measure_study(name, resources.plugins, listener.working))
    if front is None:
        raise StudyError(f"Study {summary.study} has no complete trial.", "Run the search again until one completes.")
    listener.say(front.words)
    number = front.fastest.row.number
    return None if summary.final and summary.final.trial == number else number


def _refuse_class_names(classes: Sequence[str], request: ExportRequest) -> None:
    """Raise BundleError for a class name that is not one line, or that equals the label below a threshold."""
    if broken := [name for name in classes if name.splitlines() != [name]]:
        raise BundleError(
            f"The name of class {broken[0]!r} is not a single line, which labels.txt requires.",
            "Rename its folder and search again.",
        )
    if bundle.UNKNOWN in classes and (request.threshold or request.precision):
        raise BundleError(
            f"A class is named {bundle.UNKNOWN!r}, which is also the label of predictions below the threshold.",
            "Export without a threshold, or rename the folder of the class and search again.",
        )


def _trace(
    finished: FinishedTrial,
    network: TrainedNetwork,
    temperature: float,
    score: NoveltyScore | None,
    plugins: Iterable[Path],
) -> TracedModel:
    assembled = graph.assemble_graph(network, temperature, score)
    program = graph.trace_graph(assembled, network.pixels, network.backbone.name)

    def calibration_pictures() -> list[NDArray[np.uint8]]:
        """Read training pictures at even intervals in the fixed order of the split."""
        train = finished.parts.part(TRAIN)
        chosen = train[:: max(1, len(train) // N_CALIBRATION_PICTURES)][:N_CALIBRATION_PICTURES]
        return [read_square(finished.root / p.path, network.pixels, network.interpolation) for p in chosen]

    return TracedModel(
        graph=assembled,
        program=program,
        backbone=network.backbone.name,
        plugins=tuple(folder.resolve() for folder in plugins),
        pixels=network.pixels,
        interpolation=network.interpolation,
        calibration_pictures=calibration_pictures,
    )


def _write_models(
    model: TracedModel, formats: Iterable[ExportFormat], reference: Reference, folder: Path, listener: StudyListener
) -> tuple[VerifiedFile, ...]:
    """Write and verify each format. A rejected file is removed. Raises BundleError if onnx is rejected."""
    pictures = tuple(reference.root / path for path in reference.paths)
    rows = []
    for format in formats:
        file = folder / format.file
        format.write_model(model, file)
        if format.runs_here:
            listener.say(f"Verifying {file.name} on {plural(len(pictures), 'validation picture')}")
        written = ModelFile(file, model.backbone, model.plugins)
        row = verify_file(InferenceJob(format, written, model.pixels, model.interpolation, pictures), reference)
        if format == ONNX:
            require_verified(row)
        if row.is_rejected:
            for name in format.files:
                (folder / name).unlink()
        rows.append(row)
    return tuple(rows)


def _write_documents(finished: FinishedTrial, scores: Evaluation, result: ExportResult, folder: Path) -> None:
    """Write the files of a bundle other than its models, the index last."""
    network, labels = finished.trained, finished.parts.classes
    (folder / bundle.LABELS).write_text("".join(f"{name}\n" for name in labels), encoding="utf-8")
    how = bundle.preprocessing(network.pixels, network.interpolation, result.calibration.threshold, labels,
                               result.unknown is not None)  # fmt: skip
    (folder / bundle.PREPROCESSING).write_text(json.dumps(how, indent=2) + "\n", encoding="utf-8")
    shutil.copyfile(str(decode.__file__), folder / bundle.SCRIPT)
    write_fixtures(folder, folder / ONNX.file, network.pixels, network.interpolation)
    shutil.copyfile(PAGE / RESIZE, folder / RESIZE)
    write_model_card(folder / bundle.CARD, finished, scores, result)
    bundle.write_index(folder, result.study, result.trial)
