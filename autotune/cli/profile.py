"""The command `autotune profile`: what networks cost on this machine."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from autotune.cli.options import BackboneNames, Json, Plugins, Quiet, listed, numbers, print_json, study_names
from autotune.formats.table import ONNX, find_format, timed_formats
from autotune.text import either

if TYPE_CHECKING:
    from autotune.cli.live.console import PlainConsole
    from autotune.formats.cost import DeviceProfile

profile_app = typer.Typer()


@profile_app.command()
def profile(
    study: Annotated[
        str | None,
        typer.Argument(
            metavar="[STUDY]",
            help="Measure the networks of this study, and show them in its report.",
            autocompletion=study_names,
        ),
    ] = None,
    backbone: BackboneNames = None,
    pixels: Annotated[str | None, typer.Option(help="Picture sizes, e.g. 160 or 128,224; default: their own.")] = None,
    format: Annotated[str, typer.Option(help=f"Format of the model: {either(timed_formats())}.")] = ONNX.name,
    out: Annotated[
        Path | None, typer.Option(help="Write a device profile, for `autotune search --device-profile` elsewhere.")
    ] = None,
    plugins: Plugins = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Measure what networks cost on this machine: milliseconds for a picture, on one thread, and megabytes."""
    if study and (backbone or pixels):
        raise typer.BadParameter("A study has its own backbones and sizes: leave out --backbone and --pixels.")
    find_format(format).require_modules()
    # Imports torch, which takes seconds.
    from autotune.cli.live.console import PlainConsole
    from autotune.study.costs import measure_backbones, measure_study

    console = PlainConsole(quiet, program=as_json)
    folders = tuple(plugins or ())
    with console:
        if study:
            found = measure_study(study, folders, console.working, format)
        else:
            found = measure_backbones(listed(backbone), numbers(pixels), folders, format, console.working)
    _show(found, console)
    if out:
        found.write(out)
        console.say(f"Wrote {out}")
    if as_json:
        print_json(asdict(found))


def _show(found: DeviceProfile, console: PlainConsole) -> None:
    from autotune.cli.views.tables import new_table
    from autotune.formats.cost import N_LABELS

    table = new_table()
    table.add_column("backbone")
    for title in ("pixels", "ms", "MB"):
        table.add_column(title, justify="right")
    for one in found.costs:
        table.add_row(one.backbone, str(one.pixels), f"{one.milliseconds:.1f}", f"{one.megabytes(N_LABELS):.1f}")
    console.rich.print(table)
    console.say(f"{found.costs[0].format}, one thread, without decoding, {N_LABELS} labels, on {found.device}")
