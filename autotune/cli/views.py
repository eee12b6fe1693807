"""What a finished command shows: a table or a few lines for each kind of result."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.markup import escape
from rich.table import Table

from autotune.cli.console import PlainConsole
from autotune.study.rows import FAILED, TrialRow
from autotune.study.studies import StudyRow
from autotune.study.summary import STUDIES, Summary
from autotune.text import ago, duration, file_size, percent
from autotune.training.metrics import METRICS, find_metric

if TYPE_CHECKING:
    from autotune.export.result import ExportResult
    from autotune.export.verify import VerifiedFile

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
            f"stay answered, {percent(share)} of them rightly."
        )
    if result.refit:
        console.say(
            "Trained again on training and validation pictures: test score, temperature and threshold are the earlier "
            "model's, and what is right above is of pictures it has seen."
        )
    console.say(f"Bundle: {result.folder}")
    console.say(f"Next: autotune predict {result.folder} PICTURE...")


def _verified_files(files: Iterable[VerifiedFile]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("file")
    titles = ("MB", "largest difference", "changed", "right", "ms, one thread", "ms, all", "peak MB")
    for title in titles:
        table.add_column(title, justify="right")
    table.add_column("verdict")
    for row in files:
        table.add_row(
            row.file, f"{row.bytes / 1e6:.1f}", f"{row.largest_difference:.1e}", str(row.changed),
            f"{row.right} of {row.n}", f"{row.milliseconds_one_thread:.1f}", f"{row.milliseconds_all_threads:.1f}",
            f"{row.peak_bytes / 1e6:.0f}" if row.peak_bytes else "-", "proven" if row.is_verified else "refused",
        )  # fmt: skip
    return table


def show_backbones(found: dict[str, Any]) -> None:
    """The list for a person: a name and its description, then the facts."""
    for row in found["backbones"]:
        features = row["features"] or "measured"
        at_hand = "at hand" if row["weights"]["at_hand"] else "not at hand"
        typer.echo(f"{row['name']}\n    {row['description']}")
        typer.echo(f"    {row['pixels']} pixels, {features} features; weights {at_hand}: {row['weights']['reason']}")
        if "stages" in row:
            typer.echo(f"    {row['parameters']:,} parameters in {len(row['stages'])} stages: {_stages(row['stages'])}")
        typer.echo(f"    {row['file']}")
    for one in found["broken"]:
        typer.echo(f"Left out: {one['file']}: {one['reason']}")


def _stages(parameters: list[int]) -> str:
    return ", ".join(f"{n:,}" for n in parameters)


def show_dry_run(found: dict[str, Any], console: PlainConsole) -> None:
    """The cost of the plan that has been said."""
    for row in found["banks"]:
        cuts = ", ".join(str(cut) for cut in row["after_stages"])
        there = f"; {file_size(row['bytes_there'])} of it is in the cache" if row["bytes_there"] else ""
        console.say(
            f"Bank: {row['backbone']} at {row['pixels']} pixels, after stages {cuts} of {row['stages']}: "
            f"up to {file_size(row['bytes'])}{there}."
        )
    operations, disk, trials = found["operations"], found["disk"], found["trials"]
    bank = f"{operations['bank'] / 1e12:.3g} T operations for the bank, " if found["banks"] else ""
    console.say(f"Work: {bank}{operations['trials'] / 1e12:.3g} T operations for the trials.")
    bank = f"up to {file_size(disk['bank'])} for the bank, " if found["banks"] else ""
    console.say(f"Disk: {bank}{file_size(disk['pixels'])} for decoded pixels, in {_homely(disk['folder'])}.")
    if found["begun"]:
        console.say(f"The study has begun: {trials['finished']} trials are finished, {trials['left']} are left.")
    if not trials["left"] and found["tested"]:
        console.say("Nothing is left to do; the same command only prints.")
        return
    console.say(f"Time: about {duration(found['seconds'])}.")
    console.say("This was a dry run: no study was written. The same command without --dry-run starts it.")


def _homely(folder: str) -> str:
    """A path as a person writes it."""
    place = Path(folder)
    return f"~/{place.relative_to(Path.home()).as_posix()}" if place.is_relative_to(Path.home()) else folder


def show_cache(found: dict[str, Any], console: PlainConsole) -> None:
    """What the cache holds, and how much it may."""
    table = Table(box=None, pad_edge=False)
    for name, side in (("pixels or bank", "left"), ("rows", "right"), ("size", "right"), ("last used", "right")):
        table.add_column(name, justify=side, no_wrap=True)  # type: ignore[arg-type]
    for row in found["entries"]:
        table.add_row(escape(row["name"]), f"{row['rows']:,}", file_size(row["bytes"]), ago(row["used"]))
    console.rich.print(table)
    total, most = file_size(found["bytes"]), file_size(found["limit"])
    console.say(f"{total} of at most {most} in {found['folder']}")


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
        f"Time: {duration(seconds.total)} in all; reading {seconds.read:.1f} s, bank {seconds.cache:.1f} s, "
        f"trials {seconds.trials:.1f} s, test {seconds.test:.1f} s"
    )
    console.say(f"Everything lies in {summary.folder}: record.db, trials.db, manifest.csv, checkpoints/, logs/")
    name = summary.study
    console.say(
        f"Next: autotune report {name} draws it; autotune predict {name} PICTURE... names pictures; "
        f"autotune export {name} makes a model for others; autotune search ... --trials {trials['total'] + 50} goes on"
    )


def _leaderboard(summary: Summary) -> Table:
    table = Table(box=None, pad_edge=False)
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
    if not rows:
        console.say(f"There is no study in {STUDIES.resolve()}. Begin one: autotune search PHOTOS")
        return
    table = Table(box=None, pad_edge=False)
    heads = ("study", "trials", "metric", "validation", "test", "size", "last used")
    for head in heads:
        table.add_column(head, justify="left" if head in ("study", "metric") else "right", no_wrap=True)
    for row in rows:
        metric = row.problem or (METRICS[row.metric].label if row.metric in METRICS else row.metric)
        scores, size = (percent(row.validation), percent(row.test)), file_size(row.bytes)
        table.add_row(escape(row.name), str(row.trials), escape(metric), *scores, size, ago(row.used))
    console.rich.print(table)


def show_data(found: dict[str, Any], console: PlainConsole) -> None:
    """The survey for a person."""
    console.say(f"{found['folder']}: {found['pictures']} pictures of {len(found['classes'])} classes")
    width = max(len(name) for name in found["classes"])
    for name, n in found["classes"].items():
        console.say(f"  {name:{width}} {n:7d}")
    console.say(f"The largest class has {found['uneven']:.1f} times the pictures of the smallest.")
    console.say(f"The median picture's shorter side is {found['side']} pixels.")
    if found["parts"]:
        whose = "as the folders say" if len(found["given_parts"]) > 1 else "by a hash of their content"
        parts = ", ".join(f"{n} {name}" for name, n in found["parts"].items())
        console.say(f"Parts, {whose}: {parts}")
    _list(console, "Set aside", [f"{one['path']}: {one['reason']}" for one in found["set_aside"]])
    _list(console, "Copies, kept on one side of the split", [" = ".join(group) for group in found["copies"]])
    _list(console, "Near-copies, kept on one side too", [" = ".join(group) for group in found["near_copies"]])
    if found["too_much_alike"]:
        console.say("  The pictures are too much alike to tell near-copies from others; exact copies alone count.")
    told = [" = ".join(f"{one['path']} ({one['label']})" for one in group) for group in found["contradictions"]]
    _list(console, "Copies whose labels contradict each other", told)
    if found["suspects"]:
        _list(console, "Labels to look at, the most doubtful first", [_fitted(one) for one in found["suspects"]])
    if found["problem"]:
        console.say(f"No study can start: {found['problem']}")


def _fitted(one: dict[str, Any]) -> str:
    return f"{one['path']}: labelled {one['label']}, looks like {one['answer']} ({percent(one['probability'])})"


def _list(console: PlainConsole, title: str, lines: list[str]) -> None:
    console.say(f"{title}: {len(lines) or 'none'}")
    for line in lines[:N_LISTED]:
        console.say(f"  {line}")
    if len(lines) > N_LISTED:
        console.say(f"  ... and {len(lines) - N_LISTED} more; --json lists them all")
