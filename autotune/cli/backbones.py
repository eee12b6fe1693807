"""The commands `autotune plugins`: list backbones, write a new one, check one."""

from __future__ import annotations

import keyword
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from autotune.cli.options import Json, Plugins, WeightsDir, backbone_names, print_json
from autotune.errors import PluginError

if TYPE_CHECKING:
    from autotune.backbones.spec import Backbone
    from autotune.training.check import CheckResult

TEMPLATE = '''"""{title}: MobileNetV3-Small, say what it is and who made it; torchvision's ImageNet-1k weights."""

from torch import nn
from torchvision.models import mobilenet_v3_small as tv

from autotune import backbone


@backbone(
    pixels=224,
    features=576,
    weights="https://download.pytorch.org/models/mobilenet_v3_small-047dcff4.pth",
    megabytes=10,
    licence="BSD-3-Clause",
)
def {name}(pretrained: bool) -> nn.Sequential:
    net = tv(weights="IMAGENET1K_V1" if pretrained else None)
    last = nn.Sequential(net.features[-1], nn.AdaptiveAvgPool2d(1), nn.Flatten(1))
    return nn.Sequential(*net.features[:-1], last)
'''

plugins_app = typer.Typer(help="List backbones, write a new one, try one.", invoke_without_command=True)


@plugins_app.callback()
def plugins(
    context: typer.Context,
    folders: Plugins = None,
    weights: WeightsDir = None,
    full: Annotated[bool, typer.Option("--full", help="Add parameters and stages; this imports torch.")] = False,
    as_json: Json = False,
) -> None:
    """List backbones."""
    if context.invoked_subcommand:
        return
    from autotune.cli import views

    found = list_backbones(tuple(folders or ()), weights, full)
    if as_json:
        print_json(found)
    else:
        views.show_backbones(found)


@plugins_app.command()
def new(name: Annotated[str, typer.Argument(help="A Python name, e.g. my_net.")]) -> None:
    """Write NAME.py here, a working backbone of some fifteen lines."""
    file = write_new(name)
    typer.echo(f"Wrote {file}. Try it: autotune plugins check {name} --plugins {file.parent}")


@plugins_app.command()
def check(
    name: Annotated[str, typer.Argument(help="A backbone's name.", autocompletion=backbone_names)],
    folders: Plugins = None,
    weights: WeightsDir = None,
) -> None:
    """Try a backbone: shapes, what each depth freezes and trains, train and evaluation mode, gradients."""
    from autotune.training.check import check_backbone

    def show(result: CheckResult) -> None:
        typer.echo(f"{'yes' if result.passed else 'no '} {result.requirement}")

    check_backbone(name, plugins=folders or (), weights=weights, callback=show)


def list_backbones(folders: tuple[Path, ...], weights_folder: Path | None, full: bool) -> dict[str, Any]:
    """Every backbone as plain values: what `autotune plugins --json` prints. Only `full` imports torch."""
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


def write_new(name: str) -> Path:
    """Write a backbone's file into the folder one stands in. Raises PluginError where the name will not do."""
    from autotune.backbones.registry import discover

    if not name.isidentifier() or keyword.iskeyword(name) or name.startswith("_"):
        raise PluginError(f"A backbone cannot be named {name!r}.", "Use letters, digits and underscores: my_net")
    for entry in discover().backbones:
        if entry.name == name:
            raise PluginError(f"There is a backbone {name!r} already, in {entry.file}.", "Choose another name.")
    file = Path(f"{name}.py").resolve()
    if file.exists():
        raise PluginError(f"{file} exists.", "Choose another name, or delete the file.")
    file.write_text(TEMPLATE.format(name=name, title=name), encoding="utf-8")
    return file


def _profile(entry: Backbone) -> dict[str, Any]:
    if entry.takes_variant:
        return {}
    from autotune.backbones.profile import profile_stages
    from autotune.backbones.registry import build_stages

    found = profile_stages(entry, build_stages(entry, pretrained=False), entry.traits.pixels)
    return {"parameters": sum(found.parameters), "stages": list(found.parameters)}
