"""Commands that use the model of a study: evaluate, export, predict and serve."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from autotune.cli.options import (
    Device,
    GroupBy,
    Json,
    Plugins,
    Quiet,
    StudyName,
    WeightsDir,
    print_json,
    program_out,
    reserve_stdout,
)
from autotune.formats.table import optional_formats
from autotune.text import either

if TYPE_CHECKING:
    from autotune.cli.live.console import PlainConsole

models_app = typer.Typer()
ModelName = Annotated[
    str, typer.Argument(metavar="BUNDLE-OR-STUDY", help="The folder of a bundle, or the name of a study.")
]


@models_app.command()
def evaluate(
    study: StudyName,
    on: Annotated[
        Path | None,
        typer.Option(
            "--on", help="Evaluate on this folder or table of later pictures instead; the test set is not used."
        ),
    ] = None,
    group_by: GroupBy = None,
    device: Device = "auto",
    weights: WeightsDir = None,
    plugins: Plugins = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Evaluate the final model on later pictures (--on), or on the test set again. The study counts every evaluation.

    Later pictures may have no labels, or be in no class folder: then only their drift is measured.
    """
    from autotune.study.summary import find_study, study_status

    if group_by and not on:
        raise typer.BadParameter("--group-by needs --on.")
    find_study(study)
    # Imports torch, which takes seconds.
    from autotune.cli.live.console import PlainConsole
    from autotune.cli.views.study import show_later, show_study
    from autotune.data.visits import AUTO
    from autotune.study.growth.later import evaluate_later
    from autotune.study.reopen import evaluate_again
    from autotune.study.request import Resources

    console = PlainConsole(quiet, program=as_json)
    resources = Resources(device, weights, tuple(plugins or ()))
    if on:
        with console:
            later = evaluate_later(study, on, resources, console, group_by or AUTO)
        show_later(later, study_status(study), console)
        if as_json:
            print_json(later.to_json())
        return
    with console:
        found = evaluate_again(study, resources, console)
    show_study(found, console)
    if as_json:
        print_json(found.to_json())


@models_app.command()
def export(
    study: StudyName,
    out: Annotated[
        Path | None, typer.Argument(help="Folder of the bundle; default: bundle/ in the study folder.")
    ] = None,
    formats: Annotated[
        list[str] | None,
        typer.Option("--format", help=f"{either(optional_formats())}, in addition to onnx; can be repeated."),
    ] = None,
    trial: Annotated[int | None, typer.Option(help="Export this trial's network instead of the final model.")] = None,
    fastest: Annotated[
        bool,
        typer.Option("--fastest", help="Export the fastest trial within one standard error of the best; measures it."),
    ] = False,
    threshold: Annotated[
        float | None, typer.Option(help="Label predictions below this probability as unknown.")
    ] = None,
    precision: Annotated[
        float | None, typer.Option(help="Choose the threshold that reaches this precision on held-out pictures.")
    ] = None,
    unknowns: Annotated[
        Path | None,
        typer.Option(help="Folder with pictures of none of the classes, to measure how many of them are unknown."),
    ] = None,
    space: Annotated[
        Path | None, typer.Option(help="Also write a Hugging Face Space, a page with the model, to this folder.")
    ] = None,
    web: Annotated[
        Path | None, typer.Option(help="Also write a static page, which computes in the browser, to this folder.")
    ] = None,
    web_runtime: Annotated[
        Path | None, typer.Option(help="File of `npm pack onnxruntime-web` for --web; default: downloaded once.")
    ] = None,
    weights: WeightsDir = None,
    plugins: Plugins = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Export the final model as a standalone bundle and compare it with the network in PyTorch."""
    from autotune.export.space import check_space
    from autotune.export.web import check_web, runtime_folder
    from autotune.formats.table import find_format
    from autotune.study.summary import find_study

    for name in formats or ():
        find_format(name)
    folder = find_study(study)
    if space:
        check_space(space, out or folder / "bundle")
    if web:
        check_web(web, out or folder / "bundle")
        runtime_folder(web_runtime)
    # Imports torch, which takes seconds.
    from autotune.cli.live.console import PlainConsole
    from autotune.cli.views import results
    from autotune.export.export import ExportRequest, export_trial
    from autotune.study.request import Resources

    console = PlainConsole(quiet, program=as_json)
    request = ExportRequest(out, tuple(formats or ()), trial, fastest, threshold, precision, unknowns)
    with console:
        found = export_trial(study, request, Resources("cpu", weights, tuple(plugins or ())), console)
    results.show_export(found, console)
    _write_pages(found.folder, space, web, web_runtime, console)
    if as_json:
        print_json(found.to_json())
    if problem := found.rejection():
        raise problem


def _write_pages(
    bundle: Path, space: Path | None, web: Path | None, web_runtime: Path | None, console: PlainConsole
) -> None:
    from autotune.export.space import write_space
    from autotune.export.web import write_web

    if space:
        write_space(bundle, space)
        console.say(f"Space: {space}")
    if web:
        write_web(bundle, web, web_runtime)
        console.say(f"Page: {web}. To try it: python -m http.server --directory {shlex.quote(str(web))}")


@models_app.command()
def predict(
    model: ModelName,
    pictures: Annotated[list[str], typer.Argument(help="Files, folders or glob patterns; - reads a list from stdin.")],
    top: Annotated[int, typer.Option(min=1, help="Number of labels per picture, the most likely first.")] = 1,
    as_json: Annotated[
        bool, typer.Option("--json", callback=reserve_stdout, help="Print JSON Lines: one object for each picture.")
    ] = False,
    as_csv: Annotated[bool, typer.Option("--csv", callback=reserve_stdout, help="Print CSV.")] = False,
    device: Device = "auto",
    weights: WeightsDir = None,
    plugins: Plugins = None,
) -> None:
    """Predict the labels of new pictures with a bundle or with a study's final model."""
    from autotune.cli.live.console import PlainConsole
    from autotune.export.predict import (
        find_pictures,
        load,
        predict_files,
        read_names,
        refuse_missing,
        refuse_unreadable,
        write_predictions,
    )
    from autotune.study.request import Resources

    if as_json and as_csv:
        raise typer.BadParameter("--json and --csv cannot be combined.")
    resources = Resources(device, weights, tuple(plugins or ()))
    files = find_pictures(read_names(pictures))
    refuse_missing(files)
    console = PlainConsole(program=True)
    one = load(model, resources, console.say)
    # On a terminal the predictions show the progress, and a bar would overwrite them.
    out = program_out()
    progress = None if out.isatty() else console.progress("Predicting")
    style = "json" if as_json else "csv" if as_csv else "table"
    with console:
        bad = write_predictions(predict_files(one, files, top, progress), style, one.labels, out)
    refuse_unreadable(bad, len(files))


@models_app.command()
def serve(
    model: ModelName,
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 for all networks, with --token or --public.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 picks a free one.")] = 8000,
    token: Annotated[
        str | None, typer.Option(envvar="AUTOTUNE_TOKEN", help="Secret that every user of the model has to know.")
    ] = None,
    public: Annotated[
        bool, typer.Option("--public", help="Allow everyone who can reach --host to use the model.")
    ] = False,
    device: Device = "auto",
    weights: WeightsDir = None,
    plugins: Plugins = None,
) -> None:
    """Show a page that predicts the labels of pictures, and answer programs over HTTP. Press Ctrl-C to stop."""
    from autotune.extras import require_extra
    from autotune.study.request import Resources

    for module in ("fastapi_offline", "prometheus_client", "python_multipart", "uvicorn"):
        require_extra(module, "serve")
    from autotune.serve.server import ServeRequest
    from autotune.serve.server import serve as run

    resources = Resources(device, weights, tuple(plugins or ()))
    run(ServeRequest(model, host, port, token, public), resources, typer.echo)
