"""Print the result of a command: a table or a few lines for each kind of result."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from autotune.cli.views.tables import cell_name, new_table, short_path
from autotune.cli.views.wrap import wrapped
from autotune.text import ago, duration, file_size, percent, plural

# Imported for types only, because `autotune plugins` has to start quickly.
if TYPE_CHECKING:
    from rich.table import Table

    from autotune.cache.eviction import CacheStatus
    from autotune.cli.live.console import PlainConsole
    from autotune.export.result import ExportResult, UnknownScore
    from autotune.export.verify import VerifiedFile
    from autotune.study.dry_run import DryRun
    from autotune.study.range_test import RangeTestResult, RateBounds
    from autotune.study.studies import StudyRow


def show_export(result: ExportResult, console: PlainConsole) -> None:
    """Print the verified files, the calibration and the folder of the bundle."""
    from autotune.study.storage.rows import TRIAL

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
    for line in _unknown_lines(result.unknown):
        console.say(line)
    console.say(f"Bundle: {result.folder}")
    console.say(f"Next: autotune predict {result.folder} PICTURE...")


def _unknown_lines(unknown: UnknownScore | None) -> list[str]:
    if unknown is None:
        return ["Too few pictures to measure how far others are from what the model learned."]
    lines = [f"Distance above 1 is unknown: {unknown.refused} of {unknown.n} held-out pictures are."]
    if one := unknown.foreign:
        lines.append(
            f"{one.folder}: {one.unknown} of {one.n} foreign pictures are unknown, {one.by_distance} by their distance "
            f"(AUROC {one.auroc:.3f}, of the probability {one.auroc_probability:.3f})."
        )
    return lines


def _verified_files(files: Iterable[VerifiedFile]) -> Table:
    table = new_table()
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
            row.file, f"{row.bytes / 1e6:.1f}", _shown(row.largest_difference, ".1e"), _shown(row.changed),
            "-" if row.right is None else f"{row.right} of {row.n}", _shown(row.milliseconds_one_thread, ".1f"),
            _shown(row.milliseconds_all_threads, ".1f"),
            _shown(row.peak_bytes and row.peak_bytes / 1e6, ".0f"), row.word,
        )  # fmt: skip
    return table


def _shown(value: float | None, how: str = "") -> str:
    return "-" if value is None else format(value, how)


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
    console.say(f"Disk: {disk}{file_size(found.pixel_bytes)} for decoded pixels, in {short_path(found.cache_folder)}.")
    if found.has_started:
        console.say(f"The study has started: {plural(found.n_finished, 'trial')} finished, {found.n_left} left.")
    if not found.n_left and found.tested:
        console.say("The study is complete: the same command prints its result again.")
        return
    console.say(f"Time: about {duration(found.seconds)}.")
    start = "continue" if found.has_started else "start"
    if found.is_running:
        start = "continue once the running search has ended"
    console.say(f"Dry run: nothing was trained or saved. Run the same command without --dry-run to {start}.")


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


def show_cache(found: CacheStatus, console: PlainConsole) -> None:
    """Print the entries of the cache, its size and its limit."""

    table = new_table()
    for name, side in (("pixels or features", "left"), ("rows", "right"), ("size", "right"), ("last used", "right")):
        table.add_column(name, justify=side, no_wrap=True)  # type: ignore[arg-type]
    for group in found.groups:
        table.add_row(cell_name(group.name), f"{group.rows:,}", file_size(group.bytes), ago(group.used))
    console.rich.print(table)
    console.say(f"{file_size(found.bytes)} of at most {file_size(found.limit)} in {found.folder}")


def show_studies(rows: Sequence[StudyRow], console: PlainConsole) -> None:
    """Print the table of studies."""

    from autotune.study.summary import STUDIES
    from autotune.training.metrics import METRICS

    if not rows:
        console.say(f"No studies in {STUDIES.resolve()}. Start one: autotune search PHOTOS")
        return
    table = new_table()
    heads = ("study", "trials", "metric", "validation", "test", "size", "last used")
    for head in heads:
        table.add_column(head, justify="left" if head in ("study", "metric") else "right", no_wrap=True)
    for row in rows:
        metric = row.problem or (METRICS[row.metric].label if row.metric in METRICS else row.metric)
        scores, size = (percent(row.validation), percent(row.test)), file_size(row.bytes)
        table.add_row(cell_name(row.name), str(row.trials), cell_name(metric), *scores, size, ago(row.used))
    console.rich.print(table)
