"""The list of backbones, and what a newcomer needs: a file to start from, and a check."""

from __future__ import annotations

import keyword
from pathlib import Path
from typing import Any

import typer

from autotune import plugins, weights
from autotune.errors import PluginError

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


def listing(folders: tuple[Path, ...], weights_folder: Path | None, full: bool) -> dict[str, Any]:
    """Every backbone as plain values: what `autotune plugins --json` prints. Only `full` imports torch."""
    found = plugins.catalogue(folders)
    rows = []
    for entry in found.backbones:
        at_hand = weights.find(entry, weights_folder)
        row = {
            "name": entry.name,
            "sentence": entry.sentence,
            "pixels": entry.traits.pixels,
            "features": entry.traits.features,
            "weights": {"at_hand": at_hand.at_hand, "reason": at_hand.reason},
            "licence": entry.traits.licence,
            "file": entry.file,
        }
        rows.append({**row, **(_anatomy(entry) if full else {})})
    return {"backbones": rows, "broken": [{"file": one.file, "reason": one.reason} for one in found.broken]}


def write_new(name: str) -> Path:
    """Write a backbone's file into the folder one stands in. Raises PluginError where the name will not do."""
    if not name.isidentifier() or keyword.iskeyword(name) or name.startswith("_"):
        raise PluginError(f"A backbone cannot be named {name!r}.", "Use letters, digits and underscores: my_net")
    for entry in plugins.catalogue().backbones:
        if entry.name == name:
            raise PluginError(f"There is a backbone {name!r} already, in {entry.file}.", "Choose another name.")
    file = Path(f"{name}.py").resolve()
    if file.exists():
        raise PluginError(f"{file} exists.", "Choose another name, or delete the file.")
    file.write_text(TEMPLATE.format(name=name, title=name), encoding="utf-8")
    return file


def check(name: str, folders: tuple[Path, ...], weights_folder: Path | None) -> None:
    """Try one backbone and print what holds. Raises PluginError where something does not."""
    from autotune import contract

    entry = plugins.catalogue(folders).find(name)
    findings = contract.check(entry, weights.find(entry, weights_folder))
    for finding in findings:
        typer.echo(f"{'no ' if finding.problem else 'yes'} {finding.tried}")
    problems = [finding.problem for finding in findings if finding.problem]
    if problems:
        raise PluginError(f"Backbone {name!r} breaks the contract: {' '.join(problems)}", f"Mend {entry.file}.")


def _anatomy(entry: plugins.Backbone) -> dict[str, Any]:
    if entry.takes_variant:
        return {}
    from autotune import anatomy

    found = anatomy.examine(entry, plugins.build(entry, pretrained=False), entry.traits.pixels)
    return {"parameters": sum(found.parameters), "stages": list(found.parameters)}
