"""What a finished command shows: a table or a few lines for each kind of result."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from autotune.text import ago, duration, file_size, percent

# Types alone: `autotune plugins` has to start as fast as a bare command line.
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
    from autotune.study.rows import TrialRow
    from autotune.study.studies import StudyRow
    from autotune.study.summary import Summary

N_LEADERS = 10
N_LISTED = 20  # pictures of each kind


def show_export(result: ExportResult, console: PlainConsole) -> None:
    """The models that were verified, the calibration, and where the bundle is."""
    console.rich.print(_verified_files(result.files))
    console.say(f"Each file, from pictures to probabilities, against the trained network ({result.right} right).")
    fitted = result.calibration
    console.say(f"Temperature {fitted.temperature:.3g}, fitted on validation.")
    for part, one in fitted.answered.items():
        share = one.right / one.answered if one.answered else None
        console.say(
            f"At the threshold {fitted.threshold:.4g}, {one.answered} of {one.n} {part} pictures "
            f"stay answered, {percent(share)} of them correctly."
        )
    if result.refit:
        console.say(
            "Trained again on training and validation pictures: test score, temperature and threshold are the earlier "
            "model's, and what is right above is of pictures it has seen."
        )
    console.say(f"Bundle: {result.folder}")
    console.say(f"Next: autotune predict {result.folder} PICTURE...")


def _table() -> Table:
    from rich.table import Table

    return Table(box=None, pad_edge=False)


def _verified_files(files: Iterable[VerifiedFile]) -> Table:
    table = _table()
    table.add_column("file")
    titles = ("MB", "largest difference", "changed", "right", "ms, one thread", "ms, all", "peak MB")
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
    """The list for a person: a name and its description, then the facts."""
    for row in found["backbones"]:
        features = row["features"] or "measured"
        installed = "at hand" if row["weights"]["installed"] else "not at hand"
        typer.echo(f"{row['name']}\n    {row['description']}")
        typer.echo(f"    {row['pixels']} pixels, {features} features; weights {installed}: {row['weights']['reason']}")
        if "stages" in row:
            typer.echo(f"    {row['parameters']:,} parameters in {len(row['stages'])} stages: {_stages(row['stages'])}")
        typer.echo(f"    {row['file']}")
    for one in found["broken"]:
        typer.echo(f"Left out: {one['file']}: {one['reason']}")


def _stages(parameters: list[int]) -> str:
    return ", ".join(f"{n:,}" for n in parameters)


def show_dry_run(found: DryRun, console: PlainConsole) -> None:
    """The cost of the plan that has been announced."""
    for one in found.features:
        cuts = ", ".join(str(cut) for cut in one.after_stages)
        there = f"; {file_size(one.bytes_there)} of it is in the cache" if one.bytes_there else ""
        console.say(
            f"Feature cache: {one.backbone} at {one.pixels} pixels, after stages {cuts} of {one.stages}: "
            f"up to {file_size(one.bytes)}{there}."
        )
    work = f"{found.feature_operations / 1e12:.3g} T operations for the feature cache, " if found.features else ""
    console.say(f"Work: {work}{found.trial_operations / 1e12:.3g} T operations for the trials.")
    disk = f"up to {file_size(found.feature_bytes)} for the feature cache, " if found.features else ""
    console.say(f"Disk: {disk}{file_size(found.pixel_bytes)} for decoded pixels, in {_homely(found.cache_folder)}.")
    if found.begun:
        console.say(f"The study has begun: {found.n_finished} trials are finished, {found.n_left} are left.")
    if not found.n_left and found.tested:
        console.say("Nothing is left to do; the same command only prints.")
        return
    console.say(f"Time: about {duration(found.seconds)}.")
    console.say("This was a dry run: no study was written. The same command without --dry-run starts it.")


def show_range_test(
    found: RangeTestResult, bounds: RateBounds, plot: Path, written: Path | None, console: PlainConsole
) -> None:
    """The bounds that a range test suggests, and where they are written."""
    from autotune.study.range_test import fixed_with_bounds

    console.say(f"Tested: {found.tested.words}")
    console.say(f"Suggested: lr_low {bounds.low:.1e}, lr_high {bounds.high:.1e}")
    console.say(
        f"Chosen so: the smoothed training loss falls from {found.curve.level:.3g} to {bounds.least:.3g}; a tenth of "
        "that is done at lr_low, where the fall begins, four fifths at lr_high, before it slows (Smith 2017)."
    )
    console.say(f"Plot: {plot.resolve()}")
    if written:
        also = ", ".join(f"{name} = {value}" for name, value in fixed_with_bounds(found.tested).items())
        console.say(
            f"Written to {written}, under [space]: lr_low and lr_high, which stand for every trial, and therefore also "
            f"what they were measured with: {also}."
        )
    elif not found.has_begun:
        console.say(f"With --write they go into {found.folder / 'study.toml'}.")


def _homely(folder: Path) -> str:
    """A path as a person writes it."""
    return f"~/{folder.relative_to(Path.home()).as_posix()}" if folder.is_relative_to(Path.home()) else str(folder)


def show_cache(found: CacheStatus, console: PlainConsole) -> None:
    """What the cache holds, and how much it may."""
    from rich.markup import escape

    table = _table()
    for name, side in (("pixels or features", "left"), ("rows", "right"), ("size", "right"), ("last used", "right")):
        table.add_column(name, justify=side, no_wrap=True)  # type: ignore[arg-type]
    for group in found.groups:
        table.add_row(escape(group.name), f"{group.rows:,}", file_size(group.bytes), ago(group.used))
    console.rich.print(table)
    console.say(f"{file_size(found.bytes)} of at most {file_size(found.limit)} in {found.folder}")


def show_study(summary: Summary, console: PlainConsole) -> None:
    """The end of a study, or `autotune status`: leaderboard, the winner in words, the test beside validation."""
    pictures, trials = summary.pictures, summary.n_trials
    console.say()
    console.say(
        f"Study {summary.study}: {pictures['train']} training, {pictures['validation']} validation and "
        f"{pictures['test']} test pictures of {len(summary.classes)} classes; {trials['complete']} trials complete, "
        f"{trials['pruned']} pruned, {trials['failed']} failed"
    )
    if summary.best is None:
        console.say("No trial is complete yet.")
        return
    console.rich.print(_leaderboard(summary))
    console.say(f"Winner: trial {summary.best.number}, {summary.describe(summary.best)}")
    for line in _scores(summary, summary.best):
        console.say(line)
    seconds = summary.seconds
    console.say(
        f"Time: {duration(seconds.total)} in all; reading {seconds.read:.1f} s, feature cache {seconds.cache:.1f} s, "
        f"trials {seconds.trials:.1f} s, test {seconds.test:.1f} s"
    )
    console.say(f"Everything lies in {summary.folder}: record.db, trials.db, manifest.csv, checkpoints/, logs/")
    name = summary.study
    console.say(
        f"Next: autotune report {name} draws it; autotune predict {name} PICTURE... names pictures; "
        f"autotune export {name} makes a model for others; autotune search ... --trials {trials['total'] + 50} goes on"
    )


def _leaderboard(summary: Summary) -> Table:
    from rich.markup import escape

    from autotune.study.rows import FAILED
    from autotune.training.metrics import find_metric

    table = _table()
    for name in ("trial", find_metric(summary.metric).label, "epochs", "ended", "seconds"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("choices")
    for row in summary.leaderboard[:N_LEADERS]:
        if row.state == FAILED:
            continue
        numbers = (str(row.number), percent(row.value), str(row.epochs), row.ended, f"{row.seconds:.1f}")
        table.add_row(*numbers, escape(summary.describe(row)))
    return table


def _scores(summary: Summary, best: TrialRow) -> list[str]:
    from autotune.training.metrics import find_metric

    test, label = summary.test, find_metric(summary.metric).label
    name = label[0].upper() + label[1:]
    if test is None:
        return [f"{name}: validation {percent(best.value)}; the test pictures have not been looked at."]
    low, high = test.value_interval
    looks = "once" if summary.n_evaluations == 1 else f"{summary.n_evaluations} times"
    lines = [
        f"{name}: test {percent(test.value)} (95 % interval {percent(low)} to {percent(high)}, n = {test.n}), "
        f"validation {percent(best.value)}: it flattered by {100 * ((best.value or 0.0) - test.value):+.1f} points. "
        f"The test pictures were looked at {looks}."
    ]
    weak = sorted(test.per_class.items(), key=lambda item: item[1].recall)[:3]
    lines.append("Weakest classes: " + ", ".join(f"{name} {one.right} of {one.n}" for name, one in weak))
    return lines


def show_studies(rows: Sequence[StudyRow], console: PlainConsole) -> None:
    """The table for a person."""
    from rich.markup import escape

    from autotune.study.summary import STUDIES
    from autotune.training.metrics import METRICS

    if not rows:
        console.say(f"There is no study in {STUDIES.resolve()}. Begin one: autotune search PHOTOS")
        return
    table = _table()
    heads = ("study", "trials", "metric", "validation", "test", "size", "last used")
    for head in heads:
        table.add_column(head, justify="left" if head in ("study", "metric") else "right", no_wrap=True)
    for row in rows:
        metric = row.problem or (METRICS[row.metric].label if row.metric in METRICS else row.metric)
        scores, size = (percent(row.validation), percent(row.test)), file_size(row.bytes)
        table.add_row(escape(row.name), str(row.trials), escape(metric), *scores, size, ago(row.used))
    console.rich.print(table)


def show_data(found: DataSurvey, console: PlainConsole) -> None:
    """The survey for a person."""
    console.say(f"{found.folder}: {found.pictures} pictures of {len(found.classes)} classes")
    width = max(len(name) for name in found.classes)
    for name, n in found.classes.items():
        console.say(f"  {name:{width}} {n:7d}")
    console.say(f"The largest class has {found.uneven:.1f} times the pictures of the smallest.")
    console.say(f"The median picture's shorter side is {found.side} pixels.")
    if found.parts:
        whose = "as the folders say" if len(found.given_parts) > 1 else "by a hash of their content"
        parts = ", ".join(f"{n} {name}" for name, n in found.parts.items())
        console.say(f"Parts, {whose}: {parts}")
    _list(console, "Set aside", [f"{one.path}: {one.reason}" for one in found.skipped])
    _list(console, "Copies, kept on one side of the split", [_equal(group) for group in found.duplicates])
    _list(console, "Near-copies, kept on one side too", [_equal(group) for group in found.near_duplicates])
    if found.too_much_alike:
        console.say("  The pictures are too much alike to tell near-copies from others; exact copies alone count.")
    contradictions = [" = ".join(f"{one.path} ({one.label})" for one in group) for group in found.contradictions]
    _list(console, "Copies whose labels contradict each other", contradictions)
    if found.suspects:
        _list(console, "Labels to look at, the most doubtful first", [_doubt(one) for one in found.suspects])
    if found.problem:
        console.say(f"No study can start: {found.problem}")


def _equal(group: Sequence[Picture]) -> str:
    return " = ".join(picture.path for picture in group)


def _doubt(one: LabelIssue) -> str:
    return f"{one.path}: labelled {one.label}, looks like {one.answer} ({percent(one.probability)})"


def _list(console: PlainConsole, title: str, lines: list[str]) -> None:

    console.say(f"{title}: {len(lines) or 'none'}")
    for line in lines[:N_LISTED]:
        console.say(f"  {line}")
    if len(lines) > N_LISTED:
        console.say(f"  ... and {len(lines) - N_LISTED} more; --json lists them all")
