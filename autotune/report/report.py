"""The report: a study as one self-contained HTML file."""

from __future__ import annotations

import re
import statistics
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from autotune.data import groups
from autotune.data.folder import SkippedFile
from autotune.data.picture import Picture
from autotune.data.split import MANIFEST, TEST, TRAIN, read_manifest
from autotune.errors import StudyError
from autotune.files import write_whole
from autotune.report import charts, confusion, importance
from autotune.report.charts import AxisRange
from autotune.report.confusion import Answered, Errors
from autotune.report.curves import ENDS, TrialCurve, trial_curves
from autotune.report.finals import FinalsSection, finals_section
from autotune.report.front import FrontSection, front_section
from autotune.report.gallery import ClassGallery, class_galleries
from autotune.report.importance import HyperparameterImportance, Importances
from autotune.report.later import LaterSection, later_section
from autotune.report.thumbnails import Thumbnail, first_shown, thumbnail
from autotune.study.reproduce import Reproduction, reproduction
from autotune.study.storage.evaluations import Evaluation, latest_scores
from autotune.study.storage.record import TRIALS, Record, open_record
from autotune.study.storage.rows import COMPLETE, PRUNED, ExportRow, StudyFacts, TrialRow
from autotune.study.summary import Summary, find_study, study_status
from autotune.text import duration, percent, plural, points_apart
from autotune.training.metrics import find_metric

FILE = "report.html"
TEMPLATE = Path(__file__).with_name(FILE)
N_SLICES = 6
N_GROUPS = 12  # groups shown of duplicates, of near-duplicates and of conflicting labels
N_IN_GROUP = 4  # different pictures shown of a group
N_SKIPPED = 12
N_ALIKE = 12  # shown of each class
N_CLASSES = 12  # above this, the lowest recalls and the rarest classes get separate tables
FEW = 20  # complete trials below which importances are called a rough indication


@dataclass(frozen=True)
class HyperparameterSlice:
    hyperparameter: HyperparameterImportance
    plot: Markup


@dataclass(frozen=True)
class BackboneRow:
    """A backbone in this study.

    probe: validation value of a linear probe on its frozen features. best: value of its best trial. seconds: median
    over its trials. trained_parameters: of its best trial.
    """

    label: str
    pixels: str
    probe: float | None
    best: float | None
    n_trials: int
    seconds: float | None
    trained_parameters: int | None


@dataclass(frozen=True)
class PictureGroup:
    """Duplicates or near-duplicates of one picture. shown: one of those that are identical."""

    shown: list[Thumbnail]
    pictures: tuple[Picture, ...]


@dataclass(frozen=True)
class TestSection:
    """The test scores by class and by picture.

    baseline: the share of the most frequent class. weakest: classes with errors. weakest, rarest: empty if one table
    shows all classes. answered, galleries: empty for an evaluation of an earlier version.
    """

    scores: Evaluation
    baseline: float
    errors: Errors
    classes: list[confusion.ClassRow]
    weakest: list[confusion.ClassRow]
    rarest: list[confusion.ClassRow]
    reliability: Markup | None
    answered: list[Answered]
    galleries: list[ClassGallery]


@dataclass(frozen=True)
class UnseenScore:
    """The score that selected the winner, on n pictures that its networks were not trained on. name: of these."""

    name: str
    value: float
    n: int


@dataclass(frozen=True)
class LookAlikes:
    """Pictures of a class that look like one scene: n of its n_class training and validation pictures."""

    label: str
    n: int
    n_class: int
    shown: list[Thumbnail]


@dataclass(frozen=True)
class DataSection:
    """Skipped files, duplicates, near-duplicates and conflicting labels. shown: skipped files that can be displayed."""

    skipped: tuple[SkippedFile, ...]
    shown: list[Thumbnail]
    conflicts: list[PictureGroup]
    n_conflicts: int
    duplicates: list[PictureGroup]
    n_duplicates: int
    near: list[PictureGroup]
    n_near: int
    look_alikes: list[LookAlikes]


@dataclass(frozen=True)
class ReportPage:
    """The variables of the template."""

    summary: Summary
    winner: TrialRow
    winner_words: str
    unseen: UnseenScore
    metric: str
    written: str
    scores_chart: Markup
    head_of: str
    curves: list[TrialCurve]
    history_wide: Markup
    history_narrow: Markup
    room: AxisRange
    ended: list[tuple[str, int]]
    importances: Importances
    slices: list[HyperparameterSlice]
    backbones: list[BackboneRow]
    n_evaluations: int
    finals: FinalsSection | None
    tested: TestSection | None
    later: LaterSection | None
    data: DataSection
    export: ExportRow | None
    front: FrontSection | None
    recipe: Reproduction
    device: str | None


def write_report(name: str) -> dict[str, str]:
    """Write the study's report.html atomically. Raises StudyError if no trial is complete."""
    folder, summary = find_study(name), study_status(name)
    winner = summary.winner
    with open_record(folder) as record:
        page = _page(record, folder, summary, winner)
    file = folder.resolve() / FILE
    try:
        write_whole(file, _rendered(page))
    except OSError as error:
        raise StudyError(
            f"{file} cannot be written: {error.strerror}.", "Free some disk space, or change its permissions."
        ) from error
    return {"study": folder.name, "file": str(file)}


def _rendered(page: ReportPage) -> str:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {
        "percent": _percent,
        "duration": _duration,
        "plural": plural,
        "times": _times,
        "exponents": _exponents,
        "points": _points,
    }
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        vars(page), ends=ENDS, few=FEW, points_apart=points_apart
    )


def _page(record: Record, folder: Path, summary: Summary, winner: TrialRow) -> ReportPage:
    facts = record.facts()
    root, metric, rows = Path(facts.root), find_metric(summary.metric).label, summary.leaderboard
    labels = {name: one.label for name, one in summary.backbones.items()}
    room = charts.axis_range([row.value for row in rows if row.value is not None])
    importances = importance.compute_importances(folder / TRIALS, rows, labels)
    pictures = read_manifest(folder / MANIFEST) if (folder / MANIFEST).is_file() else ()
    label = f"{metric} of {plural(len(rows), 'trial')} by trial number; the best reached {percent(rows[0].value)}"
    order = [(row.number, row.state, row.value) for row in rows]
    exports = record.exports()
    n_trials = len(rows) if summary.is_decided else max(summary.asked, len(rows))
    curves = trial_curves(record, summary, metric)
    return ReportPage(
        summary=summary,
        winner=winner,
        winner_words=summary.describe(winner),
        unseen=_unseen(summary, winner),
        metric=metric,
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        scores_chart=_scores_chart(summary, winner, metric),
        head_of=labels.get(summary.probes[0].backbone, "") if summary.probes else "",
        curves=curves,
        history_wide=charts.history(order, room, charts.WIDE, label),
        history_narrow=charts.history(order, room, charts.NARROW, label),
        room=room,
        ended=Counter(row.ended for row in rows if row.state in (COMPLETE, PRUNED)).most_common(),
        importances=importances,
        slices=_slices(importances, room, metric),
        backbones=_backbones(summary),
        n_evaluations=summary.n_evaluations,
        finals=finals_section(record, folder, summary, root),
        tested=_tested(summary, root, pictures),
        later=_later(summary, record.bundle()),
        data=_data(facts, pictures, root),
        export=exports[-1] if exports else None,
        front=front_section(summary, facts.costs, metric),
        recipe=reproduction(facts.settings, facts.data, folder.name, n_trials, facts.after),
        device=facts.device,
    )


def _unseen(summary: Summary, winner: TrialRow) -> UnseenScore:
    """Return the score that selected the winner: of the finals, or else on the validation set."""
    final = summary.final
    if final and final.folds:
        return UnseenScore("cross-validation", final.value or 0.0, final.n)
    return UnseenScore("validation", winner.value or 0.0, summary.pictures["validation"])


def _scores_chart(summary: Summary, winner: TrialRow, metric: str) -> Markup:
    test, final = summary.test, summary.final
    rows = [(f"validation {percent(winner.value)}", winner.value or 0.0)]
    if final and final.folds:
        rows.insert(0, (f"cross-validation {percent(final.value)}", final.value or 0.0))
    if test:
        rows.insert(0, (f"test {percent(test.value)}", test.value))
    if summary.probes:
        rows.append((f"linear probe {percent(summary.probes[0].value)}", summary.probes[0].value))
    label = f"{metric}: {'; '.join(name for name, _ in rows)}"
    return charts.scores(rows, test.value_interval if test else None, label)


def _slices(importances: Importances, room: AxisRange, metric: str) -> list[HyperparameterSlice]:
    found = []
    for place, one in enumerate(importances.hyperparameters[:N_SLICES]):
        label = f"{metric} of {plural(len(one.points), 'trial')} by {one.words}"
        plot = charts.sliced(f"slice-{place}", one.points, one.scale, one.categories, room, label)
        found.append(HyperparameterSlice(one, plot))
    return found


def _backbones(summary: Summary) -> list[BackboneRow]:
    """Return a row for every backbone of the study, best first."""
    found = []
    for name, one in summary.backbones.items():
        own = [row for row in summary.leaderboard if row.params.backbone == name]
        best = next((row for row in own if row.state == COMPLETE), None)
        found.append(
            BackboneRow(
                label=one.label,
                pixels=", ".join(str(size) for size in one.pixels),
                probe=max((row.value for row in summary.probes if row.backbone == name), default=None),
                best=best.value if best else None,
                n_trials=len(own),
                seconds=statistics.median(s) if (s := [row.seconds for row in own if row.seconds]) else None,
                trained_parameters=best.trained_parameters if best else None,
            )
        )
    return sorted(found, key=lambda row: -(row.best or 0.0))


def _tested(summary: Summary, root: Path, pictures: Sequence[Picture]) -> TestSection | None:
    """Return the latest evaluation of the final model, or else of the winner; None if there is none."""
    scores, classes = summary.test, summary.classes
    if scores is None:
        return None
    rows = confusion.class_rows(scores.per_class, pictures)
    has_many = len(rows) > N_CLASSES
    return TestSection(
        scores=scores,
        baseline=max(row.n for row in rows) / scores.n,
        errors=confusion.errors(scores, classes, root),
        classes=rows,
        weakest=[row for row in rows if row.right < row.n][: N_CLASSES // 2] if has_many else [],
        rarest=sorted(rows, key=lambda row: (row.pictures[TRAIN], row.recall))[: N_CLASSES // 2] if has_many else [],
        reliability=_reliability(scores),
        answered=confusion.answered(scores.confidence, scores.right) if scores.confidence else [],
        galleries=class_galleries(scores, [one for one in pictures if one.part == TEST], classes, root),
    )


def _later(summary: Summary, bundle: ExportRow | None) -> LaterSection | None:
    scores = latest_scores(summary.later)
    threshold = float(bundle.facts.get("threshold") or 0.0) if bundle else 0.0
    return later_section(summary, _reliability(scores) if scores else None, threshold)


def _reliability(scores: Evaluation) -> Markup | None:
    if not scores.confidence:  # an evaluation of an earlier version
        return None
    found = confusion.bins(scores.confidence, scores.right)
    shares = "; ".join(f"{one.n_correct} of {one.n} correct at about {percent(one.confidence)}" for one in found)
    rows = [(one.confidence, one.n, one.n_correct, *one.interval) for one in found]
    return charts.reliability(rows, f"correct predictions by confidence: {shares}")


def _data(facts: StudyFacts, pictures: Sequence[Picture], root: Path) -> DataSection:
    skipped = facts.skipped
    tied: dict[str, list[Picture]] = defaultdict(list)
    for picture in pictures:  # a group given by the user does not imply duplicates
        tied[picture.digest if not picture.group or groups.is_group_key(picture.group) else picture.group].append(
            picture
        )
    duplicates = [group for group in tied.values() if len(group) > 1]
    conflicts = groups.conflicting_labels(duplicates)
    near = [group for group in groups.near_duplicates(duplicates) if group not in conflicts]
    agreeing = [group for group in duplicates if group not in conflicts and group not in near]
    # Most skipped files cannot be decoded, and every attempt takes time.
    paths = [one.path for one in skipped[: 5 * N_SKIPPED]]
    return DataSection(
        skipped=skipped,
        shown=first_shown(root, paths, N_SKIPPED),
        conflicts=_shown(conflicts, root),
        n_conflicts=len(conflicts),
        duplicates=_shown(agreeing, root),
        n_duplicates=len(agreeing),
        near=_shown(near, root),
        n_near=len(near),
        look_alikes=_look_alikes(facts.look_alikes, pictures, root),
    )


def _look_alikes(found: Mapping[str, Sequence[str]], pictures: Sequence[Picture], root: Path) -> list[LookAlikes]:
    paths = {picture.digest: picture.path for picture in pictures}
    n_pictures = Counter(picture.label for picture in pictures if picture.part != TEST)
    rows = [(label, [paths[one] for one in digests if one in paths]) for label, digests in found.items()]
    return [
        LookAlikes(label, len(own), n_pictures[label], [thumbnail(root, path) for path in own[:N_ALIKE]])
        for label, own in rows[:N_GROUPS]
    ]


def _shown(tied: Sequence[Sequence[Picture]], root: Path) -> list[PictureGroup]:
    found = []
    for group in tied[:N_GROUPS]:
        different = list({picture.digest: picture for picture in reversed(group)}.values())[::-1]
        found.append(PictureGroup([thumbnail(root, one.path) for one in different[:N_IN_GROUP]], tuple(group)))
    return found


def _percent(share: float | None) -> str:
    return _unbroken(percent(share))


def _duration(seconds: float) -> str:
    return _unbroken(f"{seconds:.1f} s" if seconds < 10 else duration(seconds))


def _points(ends: tuple[float, float]) -> str:
    """Format the interval of a difference, in percentage points without the unit."""
    low, high = (f"{100 * one:+.1f}" if abs(100 * one) >= 0.05 else "0.0" for one in ends)
    return _unbroken(f"{low} to {high}")


def _exponents(words: str) -> str:
    """Write 5.9e-05 as 5.9·10⁻⁵, which a browser does not break at the hyphen."""
    return re.sub(r"(\d\.\d)e([+-]\d+)", lambda found: f"{found[1]}·{charts.power_of_ten(int(found[2]))}", words)


def _times(n: int) -> str:
    return "once" if n == 1 else f"{n} times"


def _unbroken(text: str) -> str:
    """Keep a number and its unit on one line."""
    return text.replace(" ", "\N{NO-BREAK SPACE}")
