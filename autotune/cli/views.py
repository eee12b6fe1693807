"""Print the result of a command: a table or a few lines for each kind of result."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from autotune.cli.wrap import wrapped
from autotune.text import ago, duration, file_size, percent, plural, visible

# Imported for types only, because `autotune plugins` has to start quickly.
if TYPE_CHECKING:
    from rich.table import Table

    from autotune.cache.eviction import CacheStatus
    from autotune.cli.console import PlainConsole
    from autotune.data.picture import Picture
    from autotune.export.result import ExportResult
    from autotune.export.verify import VerifiedFile
    from autotune.report.data_survey import DataSurvey
    from autotune.report.label_issues import LabelIssue
    from autotune.study.dry_run import DryRun
    from autotune.study.range_test import RangeTestResult, RateBounds
    from autotune.study.rows import Evaluation, Finalist, LaterRow
    from autotune.study.studies import StudyRow
    from autotune.study.summary import Summary

N_LEADERS = 10
N_LISTED = 20  # entries per list
FEW = 10  # test pictures of a class: the 95 % interval of its score is then wider than 45 percentage points


def show_export(result: ExportResult, console: PlainConsole) -> None:
    """Print the verified files, the calibration and the folder of the bundle."""
    from autotune.study.rows import TRIAL

    console.rich.print(_verified_files(result.files))
    seen = "" if result.how == TRIAL else " It was trained on them, so this does not measure its quality."
    console.say(
        "Each file was compared with the network in PyTorch, "
        f"which classifies {result.right} of {result.files[0].n} validation pictures correctly.{seen}"
    )
    fitted = result.calibration
    console.say(f"Temperature {fitted.temperature:.3g}, fitted on {fitted.fitted_on} pictures.")
    for part, one in fitted.answered.items():
        share = one.right / one.answered if one.answered else None
        console.say(
            f"Threshold {fitted.threshold:.4g}: {one.answered} of {one.n} {part} predictions reach it; "
            f"{percent(share)} of these are correct."
        )
    console.say(f"Bundle: {result.folder}")
    console.say(f"Next: autotune predict {result.folder} PICTURE...")


def _name(text: str) -> str:
    """Return a name for a cell: without control characters, and not taken for markup."""
    from rich.markup import escape

    return escape(visible(text))


def _table() -> Table:
    from rich.table import Table

    return Table(box=None, pad_edge=False)


def _verified_files(files: Iterable[VerifiedFile]) -> Table:
    table = _table()
    table.add_column("file")
    titles = (
        "MB",
        "largest prob. difference",
        "changed predictions",
        "correct",
        "ms, 1 thread",
        "ms, all threads",
        "peak MB",
    )
    for title in titles:
        table.add_column(title, justify="right")
    table.add_column("verdict")
    for row in files:
        table.add_row(
            row.file, f"{row.bytes / 1e6:.1f}", f"{row.largest_difference:.1e}", str(row.changed),
            f"{row.right} of {row.n}", f"{row.milliseconds_one_thread:.1f}", f"{row.milliseconds_all_threads:.1f}",
            f"{row.peak_bytes / 1e6:.0f}" if row.peak_bytes else "-", "verified" if row.is_verified else "rejected",
        )  # fmt: skip
    return table


def show_backbones(found: dict[str, Any]) -> None:
    """Print each backbone: name, description and facts."""
    for row in found["backbones"]:
        features = row["features"] or "measured"
        weights = "weights installed" if row["weights"]["installed"] else "weights not installed"
        facts = [
            row["description"],
            f"{row['pixels']} pixels, {features} features; {weights}: {row['weights']['reason']}",
        ]
        if "stages" in row:
            facts.append(f"{row['parameters']:,} parameters in {len(row['stages'])} stages: {_stages(row['stages'])}")
        typer.echo(row["name"])
        for fact in (*facts, row["file"]):
            typer.echo(wrapped(fact, sys.stdout, indent="    "))
    for one in found["broken"]:
        typer.echo(wrapped(f"Skipped: {one['file']}: {one['reason']}", sys.stdout))


def _stages(parameters: list[int]) -> str:
    return ", ".join(f"{n:,}" for n in parameters)


def show_dry_run(found: DryRun, console: PlainConsole) -> None:
    """Print the estimated cost of the plan, which has been printed already."""
    for one in found.features:
        cuts = ", ".join(str(cut) for cut in one.after_stages)
        cached = f", {file_size(one.bytes_there)} of it already cached" if one.bytes_there else ""
        console.say(
            f"Feature cache: {one.backbone} at {one.pixels} pixels, after stages {cuts} of {one.stages}: "
            f"up to {file_size(one.bytes)}{cached}."
        )
    work = f"{found.feature_operations / 1e12:.3g} T operations for the feature cache, " if found.features else ""
    console.say(f"Work: {work}{found.trial_operations / 1e12:.3g} T operations for the trials.")
    disk = f"up to {file_size(found.feature_bytes)} for the feature cache, " if found.features else ""
    console.say(f"Disk: {disk}{file_size(found.pixel_bytes)} for decoded pixels, in {_short_path(found.cache_folder)}.")
    if found.has_started:
        console.say(f"The study has started: {plural(found.n_finished, 'trial')} finished, {found.n_left} left.")
    if not found.n_left and found.tested:
        console.say("The study is complete: the same command prints its result again.")
        return
    console.say(f"Time: about {duration(found.seconds)}.")
    console.say("Dry run: nothing was trained or saved. Run the same command without --dry-run to start.")


def show_range_test(
    found: RangeTestResult, bounds: RateBounds, plot: Path, written: Path | None, console: PlainConsole
) -> None:
    """Print the suggested bounds, how they were chosen and where they were written."""
    from autotune.study.range_test import fixed_with_bounds

    console.say(f"Tested: {found.tested.words}")
    console.say(f"Suggested: lr_low {bounds.low:.1e}, lr_high {bounds.high:.1e}")
    console.say(
        f"The smoothed training loss falls from {found.curve.level:.3g} to {bounds.least:.3g}. A tenth of that fall is "
        "reached at lr_low, four fifths at lr_high (Smith 2017)."
    )
    console.say(f"Plot: {plot.resolve()}")
    if written:
        also = ", ".join(f"{name} = {value}" for name, value in fixed_with_bounds(found.tested).items())
        console.say(
            f"Wrote lr_low and lr_high to {written}, under [space], with the values they were measured with: {also}. "
            "Every trial of the study uses them."
        )
    elif not found.has_started:
        console.say(f"Use --write to save them in {found.folder / 'study.toml'}.")


def _short_path(folder: Path) -> str:
    """Abbreviate the home folder as ~."""
    return f"~/{folder.relative_to(Path.home()).as_posix()}" if folder.is_relative_to(Path.home()) else str(folder)


def show_cache(found: CacheStatus, console: PlainConsole) -> None:
    """Print the entries of the cache, its size and its limit."""

    table = _table()
    for name, side in (("pixels or features", "left"), ("rows", "right"), ("size", "right"), ("last used", "right")):
        table.add_column(name, justify=side, no_wrap=True)  # type: ignore[arg-type]
    for group in found.groups:
        table.add_row(_name(group.name), f"{group.rows:,}", file_size(group.bytes), ago(group.used))
    console.rich.print(table)
    console.say(f"{file_size(found.bytes)} of at most {file_size(found.limit)} in {found.folder}")


def show_study(summary: Summary, console: PlainConsole) -> None:
    """Print a study: the leaderboard, the finals, and the test score of the final model."""
    pictures, trials = summary.pictures, summary.n_trials
    console.say()
    console.say(
        f"Study {summary.study}: {pictures['train']} training, {pictures['validation']} validation and "
        f"{pictures['test']} test pictures in {plural(len(summary.classes), 'class')}; "
        f"{plural(trials['complete'], 'trial')} complete, {trials['pruned']} pruned, {trials['failed']} failed"
    )
    if summary.best is None:
        console.say("No trial is complete yet.")
        return
    console.rich.print(_leaderboard(summary))
    if trials["total"] > N_LEADERS:
        console.say(f"... and {trials['total'] - N_LEADERS} more (--json lists all)")
    console.say(f"Winner: trial {summary.winner.number}, {summary.describe(summary.winner)}")
    for line in (*_final_model(summary), *_scores(summary)):
        console.say(line)
    seconds = summary.seconds
    console.say(
        f"Time: {duration(seconds.total)} in total; reading {seconds.read:.1f} s, feature cache {seconds.cache:.1f} s, "
        f"trials {seconds.trials:.1f} s, finals {seconds.finals:.1f} s, test {seconds.test:.1f} s, "
        f"other {seconds.other:.1f} s"
    )
    console.say(f"Folder: {_short_path(summary.folder)}")
    console.rich.print(_next_commands(summary.study, trials["total"] + 50))


def _next_commands(study: str, n_trials: int) -> Table:

    table = _table()
    table.show_header = False
    table.add_column(no_wrap=True)
    table.add_column()
    for command, result in (
        (f"autotune report {study}", "curves, hyperparameters and misclassified pictures in one HTML file"),
        (f"autotune predict {study} PICTURE...", "labels for new pictures"),
        (f"autotune export {study}", "a standalone model"),
        (f"autotune search ... --trials {n_trials}", "more trials"),
    ):
        table.add_row(_name(command), result)
    return table


def _leaderboard(summary: Summary) -> Table:

    from autotune.study.rows import FAILED
    from autotune.training.metrics import find_metric

    table = _table()
    for name in ("trial", f"val. {find_metric(summary.metric).label}", "epochs", "ended", "seconds"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("hyperparameters")
    for row in summary.leaderboard[:N_LEADERS]:
        if row.state == FAILED:
            continue
        numbers = (str(row.number), percent(row.value), str(row.epochs), row.ended, f"{row.seconds:.1f}")
        table.add_row(*numbers, _name(summary.describe(row)))
    return table


def _final_model(summary: Summary) -> list[str]:
    """Describe the finals and the final model; nothing for a study of an earlier version."""
    final = summary.final
    if final is None:
        return []
    finalists = ", ".join(f"trial {one.trial}: {percent(one.mean)} ({_folds(one)})" for one in final.finalists)
    lines = [f"Finals, on the folds other than the validation set: {finalists}"] if finalists else []
    if final.close:
        lines.append(f"Trial {final.trial} is the reference and wins: the lead over it is at most one standard error.")
    return [*lines, f"Final model: {final.reason}."]


def _folds(one: Finalist) -> str:
    return f"{plural(len(one.folds), 'fold')}, {plural(sum(fold.n for fold in one.folds), 'picture')}"


def _scores(summary: Summary) -> list[str]:
    from autotune.training.metrics import find_metric

    test, label = summary.test, find_metric(summary.metric).label
    name = label[0].upper() + label[1:]
    unseen, value = "validation", summary.winner.value
    if summary.final and summary.final.folds:
        unseen, value = "cross-validation", summary.final.value
    if test is None:
        return [f"{name}: {unseen} {percent(value)}. Not evaluated on the test set yet."]
    low, high = test.value_interval
    visits = f" in {plural(test.n_visits, summary.visits.noun)}" if test.n_visits else ""
    n_times = "once" if summary.n_evaluations == 1 else f"{summary.n_evaluations} times"
    lines = [
        f"{name}: test {percent(test.value)} (95 % interval {percent(low)} to {percent(high)}, n = {test.n}{visits}), "
        f"{unseen} {percent(value)}{_optimism(value, test)}. Evaluated {n_times} on the test set."
    ]
    lines.append(summary.scope)
    lines += [_later_line(row) for row in summary.later if row.scores]
    weak = sorted(test.per_class.items(), key=lambda item: item[1].recall)
    if wrong := [f"{name} {one.right} of {one.n}" for name, one in weak if one.right < one.n][:3]:
        lines.append(f"Weakest classes: {', '.join(wrong)}")
    return lines


def show_later(later: LaterRow, summary: Summary, console: PlainConsole) -> None:
    """Print an evaluation on later pictures beside the test score."""
    console.say()
    console.say(f"{plural(later.n_read, 'later picture')} in {later.source}")
    for line in (*_left_out(later), *_later_scores(later, summary)):
        console.say(line)


def _left_out(later: LaterRow) -> list[str]:
    lines = []
    if later.copies:
        some = [f"{path} = {own}" for path, own in list(later.copies.items())[:3]]
        lines.append(f"Left out, copies of the study's pictures: {len(later.copies)} ({'; '.join(some)})")
    if later.skipped:
        some = [f"{one.path}: {one.reason}" for one in later.skipped[:3]]
        lines.append(f"Skipped: {plural(len(later.skipped), 'file')} ({'; '.join(some)})")
    if later.unlabelled:
        lines.append(f"Without a label: {plural(later.unlabelled, 'picture')}, used for the drift only.")
    if later.unknown:
        some = [f"{name} ({n})" for name, n in later.unknown.items()]
        lines.append(f"Labels that the study does not know, used for the drift only: {', '.join(some)}")
    if later.missing:
        lines.append(f"Classes without later pictures: {', '.join(later.missing)}")
    return lines


def _later_scores(later: LaterRow, summary: Summary) -> list[str]:
    from autotune.training.metrics import find_metric

    if later.scores is None:
        return ["No picture has a label of the study, so nothing else was measured."]
    found, label = later.scores.evaluation, find_metric(summary.metric).label
    low, high = found.value_interval
    of_visits = f" in {plural(found.n_visits, 'visit')}" if found.n_visits else ""
    test = f"; test {percent(summary.test.value)}" if summary.test else ""
    lines = [
        f"{label[0].upper()}{label[1:]}: later {percent(found.value)} "
        f"(95 % interval {percent(low)} to {percent(high)}, n = {found.n}{of_visits}){test}."
    ]
    if fell := [(name, fall) for name, fall in later.scores.fall.items() if fall > 0][:5]:
        words = [f"{name} {found.per_class[name].right} of {found.per_class[name].n}" for name, _ in fell]
        lines.append(f"Fell most against the test set: {', '.join(words)}")
    if found.calibration:
        lines.append(f"Expected calibration error: {percent(found.calibration.error_after)}")
    if one := later.scores.answered:
        share = one.right / one.answered if one.answered else None
        lines.append(
            f"Threshold {one.threshold:.4g}: {one.answered} of {one.n} predictions reach it; {percent(share)} of these "
            "are correct."
        )
    lines.append(f"The mistakes as pictures: autotune report {summary.study}")
    return lines


def _later_line(row: LaterRow) -> str:
    assert row.scores
    found = row.scores.evaluation
    low, high = found.value_interval
    return (
        f"Later pictures ({row.finished[:10]}, {row.source}): {percent(found.value)} (95 % interval {percent(low)} to "
        f"{percent(high)}, n = {found.n})"
    )


def _optimism(value: float | None, test: Evaluation) -> str:
    """The difference to the test score in words; nothing where both are shown as the same number."""
    points = 100 * ((value or 0.0) - test.value)
    if abs(points) < 0.05:
        return ""
    return f" ({abs(points):.1f} percentage points {'above' if points > 0 else 'below'} the test score)"


def show_studies(rows: Sequence[StudyRow], console: PlainConsole) -> None:
    """Print the table of studies."""

    from autotune.study.summary import STUDIES
    from autotune.training.metrics import METRICS

    if not rows:
        console.say(f"No studies in {STUDIES.resolve()}. Start one: autotune search PHOTOS")
        return
    table = _table()
    heads = ("study", "trials", "metric", "validation", "test", "size", "last used")
    for head in heads:
        table.add_column(head, justify="left" if head in ("study", "metric") else "right", no_wrap=True)
    for row in rows:
        metric = row.problem or (METRICS[row.metric].label if row.metric in METRICS else row.metric)
        scores, size = (percent(row.validation), percent(row.test)), file_size(row.bytes)
        table.add_row(_name(row.name), str(row.trials), _name(metric), *scores, size, ago(row.used))
    console.rich.print(table)


def show_data(found: DataSurvey, console: PlainConsole) -> None:
    """Print what a study would use."""
    console.say(f"{found.folder}: {plural(found.pictures, 'picture')} in {plural(len(found.classes), 'class')}")
    console.rich.print(_class_counts(found))
    console.say(f"Largest class: {found.uneven:.1f} times as many pictures as the smallest.")
    console.say(f"Median of the shorter side: {found.side} pixels.")
    if found.parts:
        source = "given" if len(found.given_parts) > 1 else "by a hash of the content"
        parts = ", ".join(f"{n} {name}" for name, n in found.parts.items())
        console.say(f"Split, {source}: {parts}")
        if line := few_test_pictures({name: parts["test"] for name, parts in found.class_parts.items()}):
            console.say(line)
    _show_visits(found, console)
    _list(console, "Skipped", [f"{one.path}: {one.reason}" for one in found.skipped])
    _list(console, "Duplicates, kept in the same set", [_group(group) for group in found.duplicates])
    _list(console, "Near-duplicates, kept in the same set", [_group(group) for group in found.near_duplicates])
    if found.too_much_alike:
        console.say("  Not searched: the pictures are too similar to tell near-duplicates from others.")
    contradictions = [" = ".join(f"{one.path} ({one.label})" for one in group) for group in found.contradictions]
    _list(console, "Duplicates with conflicting labels", contradictions)
    if found.suspects:
        title = f"Likely label errors among {plural(found.judged, 'picture')}, largest difference first"
        _list(console, title, [_label_issue(one) for one in found.suspects])
    if found.problem:
        console.say(f"No study can start: {found.problem}")


def _class_counts(found: DataSurvey) -> Table:
    table = _table()
    table.add_column("class")
    for name in ("pictures", *(found.parts or ())):
        table.add_column(name, justify="right", no_wrap=True)
    for name, n in found.classes.items():
        table.add_row(_name(name), str(n), *(str(count) for count in found.class_parts.get(name, {}).values()))
    return table


def few_test_pictures(counts: Mapping[str, int]) -> str:
    """Name the classes with so few test pictures that their own scores say next to nothing; "" if there are none."""
    few = sorted((n, name) for name, n in counts.items() if n < FEW)
    if not few:
        return ""
    some = ", ".join(f"{name} {n}" for n, name in few[:5]) + (", ..." if len(few) > 5 else "")
    return (
        f"Fewer than {FEW} test pictures in {len(few)} of {plural(len(counts), 'class')} ({some}): their own scores "
        "say little."
    )


def _show_visits(found: DataSurvey, console: PlainConsole) -> None:
    """Print how the pictures are grouped by visit, and what else could show visits."""
    from autotune.study.announce import visit_lines

    for line in visit_lines(found.visits) or ["Pictures are not grouped by visit."]:
        console.say(line)
    for one in found.signals:
        if one.by != found.visits.by:
            console.say(f"  {one.words}; use it with --group-by {one.by}.")


def _group(group: Sequence[Picture]) -> str:
    return " = ".join(picture.path for picture in group)


def _label_issue(one: LabelIssue) -> str:
    own = percent(one.probability - one.doubt)
    return f"{one.path}: labelled {one.label} ({own}), predicted {one.answer} ({percent(one.probability)})"


def _list(console: PlainConsole, title: str, lines: list[str]) -> None:
    console.say(f"{title}: {len(lines) or 'none'}")
    for line in lines[:N_LISTED]:
        console.say(f"  {line}")
    if len(lines) > N_LISTED:
        console.say(f"  ... and {len(lines) - N_LISTED} more (--json lists all)")
