"""The commands `autotune plugins`: list backbones, write a new one, check one, or fetch weights."""

from __future__ import annotations

import keyword
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from autotune.cli.options import Json, Plugins, WeightsDir, backbone_names, print_json
from autotune.errors import PluginError, WeightsError

if TYPE_CHECKING:
    from autotune.backbones.spec import Backbone
    from autotune.training.check import CheckResult

TEMPLATE = '''"""{name}: describe the network and name its source here."""

from torch import nn

from autotune import backbone


def stage(channels_in: int, channels_out: int) -> nn.Sequential:
    convolution = nn.Conv2d(channels_in, channels_out, 3, stride=2, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(channels_out), nn.ReLU(inplace=True))


{decorator}
def {name}(pretrained: bool) -> nn.Sequential:
    last = nn.Sequential(*stage(64, 128), nn.AdaptiveAvgPool2d(1), nn.Flatten(1))
    return nn.Sequential(stage(3, 32), stage(32, 64), last)
'''
FROM_SCRATCH = "@backbone(pixels=64, features=128, from_scratch=True)"
PRETRAINED = """\
# The weights are read from {name}.safetensors or {name}.pth in --weights DIR. To download them instead, load them below
# if `pretrained`, and add to the decorator: weights="https://...", megabytes=..., licence="..."
@backbone(pixels=224, features=128)"""

plugins_app = typer.Typer(
    help="List backbones; write or check a backbone plugin; fetch weights.", invoke_without_command=True
)


@plugins_app.callback()
def plugins(
    context: typer.Context,
    folders: Plugins = None,
    weights: WeightsDir = None,
    full: Annotated[
        bool, typer.Option("--full", help="Also show parameters and stages; imports torch, so it is slower.")
    ] = False,
    as_json: Json = False,
) -> None:
    """List backbones."""
    if context.invoked_subcommand:
        return
    from autotune.cli.views import results

    found = list_backbones(tuple(folders or ()), weights, full)
    if as_json:
        print_json(found)
    else:
        results.show_backbones(found)


@plugins_app.command()
def new(
    name: Annotated[str, typer.Argument(help="A Python name, e.g. my_net.")],
    from_scratch: Annotated[bool, typer.Option("--from-scratch", help="A network without pretrained weights.")] = False,
) -> None:
    """Write NAME.py to the current folder: a working backbone to start from."""
    file = write_new(name, from_scratch)
    typer.echo(f"Wrote {file}. Check it: autotune plugins check {name} --plugins {file.parent}")


@plugins_app.command()
def check(
    name: Annotated[str, typer.Argument(help="Name of the backbone.", autocompletion=backbone_names)],
    folders: Plugins = None,
    weights: WeightsDir = None,
) -> None:
    """Check a backbone: shapes, what each depth freezes and trains, training and evaluation mode, gradients."""
    typer.echo(f"Checking {name}; a large backbone takes a minute.", err=True)  # before torch is imported
    from autotune.training.check import check_backbone

    def show(result: CheckResult) -> None:
        typer.echo(f"{'yes' if result.passed else 'no '} {result.requirement}")

    check_backbone(name, plugins=folders or (), weights=weights, callback=show)


@plugins_app.command()
def fetch(
    names: Annotated[
        list[str], typer.Argument(help="Names of backbones, or `recommended`.", autocompletion=backbone_names)
    ],
    folders: Plugins = None,
    to: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Also write NAME.safetensors to this folder, for --weights DIR.")
    ] = None,
) -> None:
    """Download the weights of backbones, for searches without a network."""
    from autotune.backbones.recommended import with_recommended
    from autotune.backbones.registry import discover
    from autotune.search.plan import pick_device

    registry = discover(folders or ())
    wanted = [registry.find(name) for name in with_recommended(names, pick_device("auto"))]
    failed = [(one.name, error) for one in wanted if (error := _fetch_one(one, to))]
    if failed:
        missing = ", ".join(name for name, _ in failed)
        raise WeightsError(f"Not fetched: {missing}. {failed[0][1].problem}", failed[0][1].fix)


def _fetch_one(backbone: Backbone, folder: Path | None) -> WeightsError | None:
    """Fetch the weights of a backbone and say so; return the error if they are not to be had."""
    from autotune.backbones.fetch import fetch_weights

    try:
        found = fetch_weights(backbone, folder, typer.echo)
    except WeightsError as error:
        return error
    what = "was installed already" if found.was_installed else "downloaded"
    typer.echo(f"{backbone.name}: {what}{f'; wrote {found.file}' if found.file else ''}")
    return None


def list_backbones(folders: tuple[Path, ...], weights_folder: Path | None, full: bool) -> dict[str, Any]:
    """Return every backbone as plain values, as `autotune plugins --json` prints them. Only `full` imports torch."""
    from autotune.backbones.registry import discover
    from autotune.backbones.weights import find_weights

    found = discover(folders)
    rows = []
    for entry in found.backbones:
        weights = find_weights(entry, weights_folder)
        row = {
            "name": entry.name,
            "description": entry.description,
            "pixels": entry.traits.pixels,
            "features": entry.traits.features,
            "weights": {"installed": weights.installed, "reason": weights.reason},
            "licence": entry.traits.licence,
            "file": entry.file,
        }
        rows.append({**row, **(_profile(entry) if full else {})})
    return {"backbones": rows, "broken": [{"file": one.file, "reason": one.reason} for one in found.broken]}


def write_new(name: str, from_scratch: bool = False) -> Path:
    """Write a new backbone to the current folder. Raises PluginError if the name cannot be used."""
    from autotune.backbones.registry import discover

    if not name.isidentifier() or keyword.iskeyword(name) or name.startswith("_"):
        raise PluginError(f"A backbone cannot be named {name!r}.", "Use letters, digits and underscores, e.g. my_net.")
    for entry in discover().backbones:
        if entry.name == name:
            raise PluginError(f"A backbone named {name!r} exists in {entry.file}.", "Choose another name.")
    file = Path(f"{name}.py").resolve()
    if file.exists():
        raise PluginError(f"{file} exists.", "Choose another name, or delete the file.")
    decorator = FROM_SCRATCH if from_scratch else PRETRAINED.format(name=name)
    file.write_text(TEMPLATE.format(name=name, decorator=decorator), encoding="utf-8")
    return file


def _profile(entry: Backbone) -> dict[str, Any]:
    if entry.takes_variant:
        return {}
    from autotune.backbones.profile import profile_stages
    from autotune.backbones.registry import build_stages

    found = profile_stages(entry, build_stages(entry, pretrained=False), entry.traits.pixels)
    return {"parameters": sum(found.parameters), "stages": list(found.parameters)}
