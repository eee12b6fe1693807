"""Model card: the scores and limitations of an exported model, as a Hugging Face model card (Mitchell et al. 2019)."""

from __future__ import annotations

import os
import platform
import shlex
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2

from autotune.data import datasets
from autotune.data.split import PARTS
from autotune.export.result import ExportResult
from autotune.formats.table import optional_formats
from autotune.study.reopen import FinishedTrial
from autotune.study.reproduce import reproduction
from autotune.study.storage.evaluations import ClassScore, Evaluation
from autotune.study.storage.rows import TRIAL
from autotune.study.summary import describe_scope, was_measured_later
from autotune.text import percent, plain_name, plural, points_apart
from autotune.training.metrics import find_metric

WEAKEST = 3


def write_model_card(file: Path, finished: FinishedTrial, validation: Evaluation, result: ExportResult) -> None:
    """Write card.md. validation: the scores of the trained network on the validation set."""
    source = Path(__file__).with_suffix(".md").read_text(encoding="utf-8")
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    environment.filters["percent"] = percent
    environment.filters["plural"] = plural
    environment.filters["name"] = plain_name
    environment.filters["quoted"] = shlex.quote
    values = _values(finished, validation, result)
    file.write_text(environment.from_string(source).render(values), encoding="utf-8")


def _values(finished: FinishedTrial, validation: Evaluation, result: ExportResult) -> dict[str, Any]:
    """Return the variables of the template."""
    record, trial = finished.record, finished.trial
    test, known = finished.test, record.facts()
    backbone = known.backbone(trial.params.backbone)
    per_class = (test or validation).per_class
    # Only names: the card is published, and a local path is private.
    source = Path(known.data).name
    after = known.after and Path(known.after).name
    again = reproduction(known.settings, source, finished.folder.name, len(record.trials()), after)
    return {
        **result.to_json(),
        "metadata": _metadata(finished, test, validation),
        "words": backbone.describe(trial.params),
        "n_folds": len(finished.final.folds) if finished.final else 0,
        "has_whole": bool(finished.final and finished.final.has_whole),
        "classes": _classes(finished, per_class),
        "weakest": [
            {"name": n, **vars(one)}
            for n, one in sorted(per_class.items(), key=lambda i: i[1].recall)[:WEAKEST]
            if one.right < one.n
        ],
        "measured_on": "test" if test else result.calibration.fitted_on,
        "data": {"origin": _origin(finished), "split": known.split, **known.pictures},
        "metric": find_metric(known.settings["metric"]).label,
        "test": test,
        "scope": _scope(finished, test),
        "noun": known.visits.noun,
        "later": [(Path(row.source).name, row) for row in finished.later if row.scores],
        "validation": validation,
        "optimism": _optimism(validation.value, test) if test else None,
        "n_evaluations": len(record.evaluations()),
        "table": result.files,
        "machine": f"{plural(os.cpu_count() or 1, 'processor')} ({platform.machine()}, {platform.system()})",
        "choices": {
            key: f"{value:.4g}" if isinstance(value, float) else value for key, value in trial.params.flat().items()
        },
        "backbone": backbone.label,
        "licence": _licence(finished),
        "recipe": again,
        "options": _options(result),
    }


def _scope(finished: FinishedTrial, test: Evaluation | None) -> str | None:
    if test is None:
        return None
    record, backbone = finished.record, finished.trial.params.backbone
    return describe_scope(
        finished.folder.name, record.facts().visits, test, record.probes(), backbone, was_measured_later(finished.later)
    )


def _classes(finished: FinishedTrial, per_class: Mapping[str, ClassScore]) -> list[dict[str, Any]]:
    counts = {part: Counter(p.label for p in finished.parts.part(part)) for part in PARTS}
    return [
        {"name": name, **{part: counts[part][name] for part in PARTS}, **vars(per_class[name])}
        for name in finished.parts.classes
    ]


def _optimism(validation: float, test: Evaluation) -> str:
    """Compare the two scores: a difference within the interval of the test score may be chance."""
    points, (low, high) = points_apart(validation, test.value), test.value_interval
    if not points:
        return "it is as high as the test score"
    side = f"it is {abs(points):.1f} percentage points {'above' if points > 0 else 'below'} the test score"
    return f"{side}, {'within' if low <= validation <= high else 'outside'} the interval of the latter"


def _options(result: ExportResult) -> str:
    """Return the options of `autotune export` that write these files again."""
    trial = f" --trial {result.trial}" if result.how == TRIAL else ""
    written = [one.format for one in result.files if one.is_verified and one.format in optional_formats()]
    formats = "".join(f" --format {format}" for format in written)
    threshold = result.calibration.threshold
    return trial + formats + (f" --threshold {threshold:.6g}" if threshold else "")


def _licence(finished: FinishedTrial) -> str:
    traits = finished.trained.backbone.traits
    if traits.from_scratch:
        return "trained from scratch, without third-party weights"
    return f"its weights are under {traits.licence}" if traits.licence else "the licence of its weights is not stated"


def _origin(finished: FinishedTrial) -> str:
    source = finished.record.facts().data
    if not source:
        return "autotune's built-in sample, scikit-learn's handwritten digits"
    if source in datasets.DATASETS:
        return f"torchvision's dataset `{source}`"
    return f"The {'table' if Path(source).suffix else 'folder'} `{Path(source).name}`"


def _metadata(finished: FinishedTrial, test: Evaluation | None, validation: Evaluation) -> str:
    """Return the YAML block for the Hugging Face Hub."""
    from huggingface_hub import EvalResult, ModelCardData

    facts = finished.record.facts()
    metric = facts.settings["metric"]
    part, scores = ("test", test) if test else ("validation", validation)
    result = EvalResult(
        task_type="image-classification",
        dataset_type="imagefolder",
        dataset_name=datasets.default_study_name(Path(facts.data) if facts.data else None),
        dataset_split=part,
        metric_type=find_metric(metric).hub_name,
        metric_value=round(scores.value, 4),
    )
    traits = finished.trained.backbone.traits
    data = ModelCardData(
        license=(traits.licence or "unknown").lower(),
        library_name="onnx",
        pipeline_tag="image-classification",
        tags=["image-classification", "autotune", finished.trained.backbone.name],
        metrics=[metric],
        model_name=finished.folder.name,
        eval_results=[result],
    )
    return str(data.to_yaml()).strip()
