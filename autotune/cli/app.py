"""The command line: parse, call one function, print. Heavy modules are imported by the commands that need them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from autotune.cli.backbones import plugins_app
from autotune.cli.cache import cache_app
from autotune.cli.models import models_app
from autotune.cli.options import (
    BackboneName,
    BackboneNames,
    BudgetFormat,
    ClusterAddress,
    ConfigFile,
    Data,
    Device,
    DeviceProfileFile,
    DryRun,
    EarlierStudy,
    EngineName,
    GpusPerTrial,
    GroupBy,
    Json,
    Manifest,
    MaxMb,
    MaxMs,
    MetricName,
    NewStudyName,
    Plugins,
    Quiet,
    SkipUnreadable,
    StudyName,
    TimeLimit,
    TrackerName,
    Verbose,
    WeightsDir,
    Workers,
    listed,
    numbers,
    print_json,
    study_names,
)
from autotune.cli.profile import profile_app
from autotune.cli.studies import studies_app
from autotune.trackers.base import find_tracker

if TYPE_CHECKING:
    from autotune.cli.live.console import PlainConsole
    from autotune.study.request import SearchRequest

app = typer.Typer(
    name="autotune",
    help="Find the best way to fine-tune a pretrained network on a folder of labelled photos.",
    context_settings={"help_option_names": ["-h", "--help"]},
    invoke_without_command=True,
    pretty_exceptions_enable=False,
)
app.add_typer(models_app)
app.add_typer(profile_app)
app.add_typer(plugins_app, name="plugins")
app.add_typer(cache_app, name="cache")
app.add_typer(studies_app, name="studies")


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"autotune {version('autotune-vision')}")
        raise typer.Exit


@app.callback()
def options(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command()
def search(
    data: Data = None,
    trials: Annotated[int, typer.Option(min=1, help="Total trials, including those of earlier runs.")] = 50,
    study: NewStudyName = None,
    config: ConfigFile = None,
    backbone: BackboneNames = None,
    pixels: Annotated[str | None, typer.Option(help="Picture sizes to search, e.g. 160 or 128,224.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Maximum epochs per trial.")] = None,
    metric: MetricName = None,
    timeout: TimeLimit = None,
    seed: Annotated[int | None, typer.Option(help="Random seed of the split and the trials.")] = None,
    device: Device = "auto",
    workers: Workers = None,
    engine: EngineName = "local",
    address: ClusterAddress = None,
    gpus_per_trial: GpusPerTrial = None,
    weights: WeightsDir = None,
    plugins: Plugins = None,
    manifest: Manifest = None,
    after: EarlierStudy = None,
    max_ms: MaxMs = None,
    max_mb: MaxMb = None,
    format: BudgetFormat = None,
    device_profile: DeviceProfileFile = None,
    group_by: GroupBy = None,
    skip_unreadable: SkipUnreadable = False,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Also write TensorBoard logs.")] = False,
    track: TrackerName = None,
    dry_run: DryRun = False,
    verbose: Verbose = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Search for the best way to fine-tune on DATA, then evaluate the final model once on the test set.

    Run the same command again to resume.
    """
    from autotune.engines.local import warm_up
    from autotune.study.check_request import check_request
    from autotune.study.request import LOCAL, SearchRequest
    from autotune.study.storage.lock import refuse_in_use

    flags = {"epochs": epochs, "metric": _underscored(metric), "seed": seed, "group_by": group_by}
    limits = {"max_ms": max_ms, "max_mb": max_mb, "format": format}
    ranges = {"backbone": listed(backbone), "pixels": numbers(pixels)}
    request = SearchRequest(
        data=data, name=study, trials=trials, timeout=timeout, workers=workers, device=device, config=config,
        weights=weights, plugins=tuple(plugins or ()), manifest=manifest, after=after, device_profile=device_profile,
        skip_unreadable=skip_unreadable, engine=engine, address=address, gpus_per_trial=gpus_per_trial,
        flags={**flags, **limits, **ranges},
    )  # fmt: skip
    checked = check_request(request)
    if track is not None:
        find_tracker(track)
    if not dry_run:
        refuse_in_use(checked.folder)
        if engine == LOCAL:
            warm_up()
    from autotune.cli.live.live_console import open_console

    with open_console(quiet, program=as_json, verbose=verbose) as console:
        console.working("Starting")  # importing torch takes seconds
        if dry_run:
            _show_dry_run(request, console, as_json)
        else:
            _show_search(request, console, tensorboard, track, as_json)


def _show_search(
    request: SearchRequest, console: PlainConsole, tensorboard: bool, track: str | None, as_json: bool
) -> None:
    from autotune.cli.views.study import show_study
    from autotune.report.tensorboard import TensorBoardListener, how_to_open
    from autotune.trackers.listener import run_tracked

    listeners = (console, TensorBoardListener()) if tensorboard else (console,)
    found = run_tracked(request, track, *listeners)
    show_study(found, console)
    if tensorboard:
        console.say(how_to_open(found.folder))
    if as_json:
        print_json(found.to_json())


def _show_dry_run(request: SearchRequest, console: PlainConsole, as_json: bool) -> None:
    from autotune.cli.views import results
    from autotune.study.dry_run import dry_run

    found = dry_run(request, console)
    results.show_dry_run(found, console)
    if as_json:
        print_json(found.to_json())


@app.command(name="status")
def status_(study: StudyName, as_json: Json = False) -> None:
    """Show a study's leaderboard, final model and test score."""
    from autotune.cli.live.console import PlainConsole
    from autotune.cli.views.study import show_study
    from autotune.study.summary import study_status

    found = study_status(study)
    if as_json:
        print_json(found.to_json())
    else:
        show_study(found, PlainConsole())


@app.command()
def compare(
    study: StudyName,
    other: Annotated[
        str, typer.Argument(metavar="STUDY", help="Name or folder of another study.", autocompletion=study_names)
    ],
    as_json: Json = False,
) -> None:
    """Show two studies side by side, and their final models on the test pictures that both have."""
    from autotune.cli.live.console import PlainConsole
    from autotune.cli.views.comparison import show_comparison
    from autotune.study.growth.compare import compare_studies

    found = compare_studies(study, other)
    if as_json:
        print_json(found.to_json())
    else:
        show_comparison(found, PlainConsole())


@app.command()
def report(study: StudyName, as_json: Json = False) -> None:
    """Write report.html: one self-contained file with curves, hyperparameters and misclassified pictures."""
    from autotune.study.summary import find_study

    find_study(study)  # before torch is imported
    from autotune.report.report import write_report

    found = write_report(study)
    if as_json:
        print_json(found)
    else:
        typer.echo(f"Wrote {found['file']}")


@app.command()
def data(
    data: Data = None,
    suspects: Annotated[
        int, typer.Option(min=0, help="Number of likely label errors to list, found with a linear probe.")
    ] = 0,
    study: Annotated[
        str | None,
        typer.Option(
            help="With --suspects: find label errors with the finals of this study instead.", autocompletion=study_names
        ),
    ] = None,
    group_by: GroupBy = None,
    as_json: Json = False,
) -> None:
    """Show what a study would use: pictures, classes, split, skipped files, duplicates and conflicting labels."""
    from autotune.cli.live.console import PlainConsole
    from autotune.cli.views.data import show_data
    from autotune.data.visits import AUTO
    from autotune.report.data_survey import survey_data

    if study is not None and not suspects:
        raise typer.BadParameter("--study needs --suspects.")
    console = PlainConsole(program=as_json)
    with console:
        found = survey_data(data, suspects, console, study, group_by or AUTO)
    if as_json:
        print_json(found.to_json())
    else:
        show_data(found, console)


@app.command(name="lr-find")
def lr_find(
    data: Data = None,
    backbone: BackboneName = ...,  # type: ignore[assignment]
    depth: Annotated[
        int | None, typer.Option(min=0, help="Number of last stages to unfreeze; default: the head only.")
    ] = None,
    write: Annotated[
        bool, typer.Option("--write", help="Write the learning rates to studies/NAME/study.toml.")
    ] = False,
    study: NewStudyName = None,
    config: ConfigFile = None,
    pixels: Annotated[int | None, typer.Option(help="Picture size.")] = None,
    seed: Annotated[
        int | None, typer.Option(help="Random seed of the split, the initial head and the order of the pictures.")
    ] = None,
    device: Device = "auto",
    weights: WeightsDir = None,
    plugins: Plugins = None,
    skip_unreadable: SkipUnreadable = False,
    as_json: Json = False,
) -> None:
    """Run a learning rate range test and suggest lr_low and lr_high."""
    from autotune.study.check_request import check_request
    from autotune.study.request import SearchRequest

    flags = {"backbone": backbone, "depth": depth, "pixels": pixels, "seed": seed}
    request = SearchRequest(
        data=data, name=study, device=device, config=config, weights=weights, plugins=tuple(plugins or ()),
        skip_unreadable=skip_unreadable, flags=flags,
    )  # fmt: skip
    check_request(request)
    # Imports torch, which takes seconds.
    from autotune.cli.live.console import PlainConsole
    from autotune.cli.range_test import find_learning_rates

    console = PlainConsole(program=as_json)
    with console:
        found = find_learning_rates(request, write, console)
    if as_json:
        print_json(found)


@app.command()
def dashboard(
    study: StudyName,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 picks a free one.")] = 8080,
) -> None:
    """Show a study in the browser with optuna-dashboard, also while it runs. Press Ctrl-C to stop."""
    from autotune.report.dashboard import serve_dashboard

    serve_dashboard(study, port, typer.echo)


def _underscored(name: str | None) -> str | None:
    return name and name.strip().lower().replace(" ", "_").replace("-", "_")
