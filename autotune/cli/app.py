"""The command line: parses, calls one function, prints. Heavy imports wait until a command needs them."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from autotune.cli.backbones import plugins_app
from autotune.cli.cache import cache_app
from autotune.cli.options import (
    BackboneName,
    Backbones,
    ConfigFile,
    Data,
    Device,
    Json,
    MetricName,
    NewStudyName,
    Plugins,
    Quiet,
    SkipUnreadable,
    StudyName,
    WeightsDir,
    print_json,
)
from autotune.cli.studies import studies_app
from autotune.errors import AutotuneError
from autotune.export.formats import optional_formats
from autotune.garbage import collected_less_often
from autotune.text import either

if TYPE_CHECKING:
    from autotune.cli.console import PlainConsole
    from autotune.study.request import SearchRequest

INTERRUPTED = 130  # Typer's exit code after Ctrl-C

app = typer.Typer(
    name="autotune",
    help="Finds the best way to fine-tune a pretrained network on a folder of labelled photos.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(plugins_app, name="plugins")
app.add_typer(cache_app, name="cache")
app.add_typer(studies_app, name="studies")


@app.command()
def search(
    data: Data = None,
    trials: Annotated[int, typer.Option(min=1, help="Finished trials in all, earlier runs included.")] = 50,
    study: NewStudyName = None,
    config: ConfigFile = None,
    backbones: Backbones = None,
    pixels: Annotated[str | None, typer.Option(help="Sizes to search, e.g. 160 or 128,224.")] = None,
    epochs: Annotated[int | None, typer.Option(help="The most epochs a trial may have.")] = None,
    metric: MetricName = None,
    timeout: Annotated[
        float | None, typer.Option(min=0, help="Seconds after which no trial goes on; then the test.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Decides the split, the trials and their randomness.")] = None,
    device: Device = "auto",
    workers: Annotated[int, typer.Option(min=1, help="Trials at a time, each in a process of its own.")] = 1,
    weights: WeightsDir = None,
    plugins: Plugins = None,
    manifest: Annotated[Path | None, typer.Option(help="An older study's manifest.csv, whose sides are kept.")] = None,
    skip_unreadable: SkipUnreadable = False,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Write every trial's curves for TensorBoard, too.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done and what it would cost, and stop.")
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Also show caching decisions.")] = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Search for the best way to fine-tune on DATA, and test the winner once. The same command again goes on."""
    from autotune.cli import views
    from autotune.cli.live import open_console
    from autotune.report.tensorboard import TensorBoardListener, how_to_open
    from autotune.study.listener import Listeners
    from autotune.study.request import SearchRequest
    from autotune.study.run import run_study

    flags = {"epochs": epochs, "metric": _underscored(metric), "seed": seed}
    ranges = {"backbone": _listed(backbones), "pixels": _numbers(pixels)}
    request = SearchRequest(
        data=data, name=study, trials=trials, timeout=timeout, workers=workers, device=device, config=config,
        weights=weights, plugins=tuple(plugins or ()), manifest=manifest, skip_unreadable=skip_unreadable,
        flags={**flags, **ranges},
    )  # fmt: skip
    console = open_console(quiet, program=as_json, verbose=verbose)
    listener = Listeners(console, TensorBoardListener()) if tensorboard else console
    if dry_run:
        _show_dry_run(request, console, as_json)
        return
    with console:
        found = run_study(request, listener)
    views.show_study(found, console)
    if tensorboard:
        console.say(how_to_open(found.folder))
    if as_json:
        print_json(found.to_json())


def _show_dry_run(request: SearchRequest, console: PlainConsole, as_json: bool) -> None:
    from autotune.cli import views
    from autotune.study.dry_run import dry_run

    with console:
        found = dry_run(request, console)
    views.show_dry_run(found, console)
    if as_json:
        print_json(found.to_json())


@app.command(name="status")
def status_(study: StudyName, as_json: Json = False) -> None:
    """Show a study as it stands: leaderboard, winner, test."""
    from autotune.cli.console import PlainConsole
    from autotune.cli.views import show_study
    from autotune.study.summary import study_status

    found = study_status(study)
    if as_json:
        print_json(found.to_json())
    else:
        show_study(found, PlainConsole())


@app.command()
def evaluate(
    study: StudyName,
    device: Device = "auto",
    weights: WeightsDir = None,
    plugins: Plugins = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Look at the test pictures again with the winner. The record counts every look."""
    from autotune.cli.console import PlainConsole
    from autotune.cli.views import show_study
    from autotune.study.reopen import evaluate_again
    from autotune.study.request import Resources

    console = PlainConsole(quiet, program=as_json)
    resources = Resources(device, weights, tuple(plugins or ()))
    with console:
        found = evaluate_again(study, resources, console)
    show_study(found, console)
    if as_json:
        print_json(found.to_json())


@app.command()
def export(
    study: StudyName,
    out: Annotated[
        Path | None, typer.Argument(help="The bundle's folder; by default the study's own, bundle/.")
    ] = None,
    formats: Annotated[
        list[str] | None,
        typer.Option("--format", help=f"{either(optional_formats())}, beside onnx; may be given again."),
    ] = None,
    trial: Annotated[int | None, typer.Option(help="Another trial than the winner.")] = None,
    refit: Annotated[bool, typer.Option("--refit", help="Train on training and validation pictures first.")] = False,
    threshold: Annotated[float | None, typer.Option(help="The probability below which the answer is unknown.")] = None,
    precision: Annotated[float | None, typer.Option(help="Find that threshold: answers so often right.")] = None,
    device: Device = "auto",
    weights: WeightsDir = None,
    plugins: Plugins = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Write the winner as a bundle that others can use without autotune, proven on the validation pictures."""
    from autotune.cli import views
    from autotune.cli.console import PlainConsole
    from autotune.export.export import ExportRequest, export_trial
    from autotune.study.request import Resources

    console = PlainConsole(quiet, program=as_json)
    request = ExportRequest(out, tuple(formats or ()), trial, refit, threshold, precision)
    with console:
        found = export_trial(study, request, Resources(device, weights, tuple(plugins or ())), console)
    views.show_export(found, console)
    if as_json:
        print_json(found.to_json())
    if problem := found.refusal():
        raise problem


@app.command()
def predict(
    model: Annotated[str, typer.Argument(metavar="BUNDLE-OR-STUDY", help="A bundle's folder, or a study's name.")],
    pictures: Annotated[list[str], typer.Argument(help="Files, folders, patterns; - for a list of them on stdin.")],
    top: Annotated[int, typer.Option(min=1, help="The likeliest labels to tell.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object a picture, a line each.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    device: Device = "auto",
    weights: WeightsDir = None,
    plugins: Plugins = None,
) -> None:
    """Name new pictures, by a bundle or by a study's winner."""
    from autotune.cli.console import PlainConsole
    from autotune.export.predict import (
        find_pictures,
        load,
        predict_files,
        read_names,
        refuse_unreadable,
        write_predictions,
    )
    from autotune.study.request import Resources

    if as_json and as_csv:
        raise typer.BadParameter("--json and --csv are two ways to print the same; give one.")
    resources = Resources(device, weights, tuple(plugins or ()))
    one = load(model, resources)
    files = find_pictures(read_names(pictures))
    console = PlainConsole(program=True)
    # Answers on a terminal are their own progress, and a bar would swallow them.
    progress = None if sys.stdout.isatty() else console.progress("Predicting")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files may be no text
    style = "json" if as_json else "csv" if as_csv else "table"
    with console:
        bad = write_predictions(predict_files(one, files, top, progress), style, one.labels, sys.stdout)
    refuse_unreadable(bad, len(files))


@app.command()
def report(study: StudyName, as_json: Json = False) -> None:
    """Write the study's report.html: one file, with curves, mistakes and pictures, that opens anywhere."""
    from autotune.report.report import write_report

    found = write_report(study)
    if as_json:
        print_json(found)
    else:
        typer.echo(f"Wrote {found['file']}")


@app.command()
def data(
    data: Data = None,
    suspects: Annotated[int, typer.Option(min=0, help="How many doubtful labels to look for, by a linear probe.")] = 0,
    as_json: Json = False,
) -> None:
    """Show what a study would see: pictures, classes, parts, what is set aside, copies, contradicting labels."""
    from autotune.cli import views
    from autotune.cli.console import PlainConsole
    from autotune.report.data_survey import survey_data

    console = PlainConsole(program=as_json)
    with console:
        found = survey_data(data, suspects, console)
    if as_json:
        print_json(found.to_json())
    else:
        views.show_data(found, console)


@app.command(name="lr-find")
def lr_find(
    data: Data = None,
    backbone: BackboneName = ...,  # type: ignore[assignment]
    depth: Annotated[int | None, typer.Option(min=0, help="Last stages that train; by default the head alone.")] = None,
    write: Annotated[bool, typer.Option("--write", help="Fix the rates in studies/NAME/study.toml.")] = False,
    study: NewStudyName = None,
    config: ConfigFile = None,
    pixels: Annotated[int | None, typer.Option(help="The size to test at.")] = None,
    seed: Annotated[int | None, typer.Option(help="Decides the split, the head and the order of the pictures.")] = None,
    device: Device = "auto",
    weights: WeightsDir = None,
    plugins: Plugins = None,
    skip_unreadable: SkipUnreadable = False,
    as_json: Json = False,
) -> None:
    """Find the learning rates to cycle between: rates rise, and the training loss shows which of them learn."""
    from autotune.cli.console import PlainConsole
    from autotune.cli.range_test import find_learning_rates
    from autotune.study.request import SearchRequest

    flags = {"backbone": backbone, "depth": depth, "pixels": pixels, "seed": seed}
    request = SearchRequest(
        data=data, name=study, device=device, config=config, weights=weights, plugins=tuple(plugins or ()),
        skip_unreadable=skip_unreadable, flags=flags,
    )  # fmt: skip
    console = PlainConsole(program=as_json)
    with console:
        found = find_learning_rates(request, write, console)
    if as_json:
        print_json(found)


@app.command()
def dashboard(
    study: StudyName,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Where to listen; 0 takes any that is free.")] = 8080,
) -> None:
    """Show a study's trials in the browser with optuna-dashboard, also while it runs. Ctrl-C ends it."""
    from autotune.report.dashboard import serve_dashboard

    serve_dashboard(study, port, typer.echo)


def main() -> NoReturn:
    """Run a command. What the user can fix is two lines and exit code 1; a bug keeps its traceback."""
    try:
        with collected_less_often():
            app()
    except AutotuneError as error:
        for line in (error.problem, error.fix):
            print(" ".join(line.splitlines()), file=sys.stderr)  # names of files may hold line breaks
        sys.exit(1)
    except SystemExit as leave:
        if leave.code == INTERRUPTED:
            print("Stopped. What is finished is kept; the same command goes on.", file=sys.stderr)
        raise
    sys.exit(0)


def _underscored(name: str | None) -> str | None:
    return name and name.strip().lower().replace(" ", "_").replace("-", "_")


def _listed(text: str | None) -> list[str] | None:
    return None if text is None else [part.strip() for part in text.split(",") if part.strip()]


def _numbers(text: str | None) -> list[int | str] | None:
    """Whole numbers where they are; what is none is left for the check of the settings to refuse."""
    parts = _listed(text)
    return None if parts is None else [int(part) if part.isdecimal() else part for part in parts]
