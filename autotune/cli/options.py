"""Options that commands share, what a shell completes of them, how JSON is printed and a question is asked."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from autotune.errors import ConfigError
from autotune.text import either
from autotune.training.metrics import METRICS


def study_names(incomplete: str) -> list[str]:
    """The studies in this folder, for completion."""
    from autotune.study.summary import STUDIES

    names = sorted(file.parent.name for file in STUDIES.glob("*/record.db"))
    return [name for name in names if name.startswith(incomplete)]


def backbone_names(incomplete: str) -> list[str]:
    """The bundled and installed backbones, for completion; after a comma, one more."""
    from autotune.backbones.registry import discover

    before, comma, last = incomplete.rpartition(",")
    names = [entry.name + ":" * entry.takes_variant for entry in discover().backbones]
    return [before + comma + name for name in names if name.startswith(last)]


def metric_names(incomplete: str) -> list[str]:
    """The metrics, for completion."""
    return [name for name in METRICS if name.startswith(incomplete)]


Data = Annotated[
    Path | None,
    typer.Argument(
        help="A folder with a folder a class, or with train/, val/, test/; a CSV or TSV with path,label; the name of a "
        "torchvision data set. Without it: the built-in digits."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout, and nothing else there.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print nothing but problems.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
Plugins = Annotated[
    list[Path] | None, typer.Option("--plugins", help="A folder of backbone plugins; may be given again.")
]
WeightsDir = Annotated[Path | None, typer.Option("--weights", help="A folder of NAME.safetensors or NAME.pth.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]
NewStudyName = Annotated[str | None, typer.Option(help="The study's name; by default the data folder's.")]
ConfigFile = Annotated[
    Path | None, typer.Option("--config", help="A study.toml; by default studies/NAME/study.toml, if there.")
]
SkipUnreadable = Annotated[bool, typer.Option(help="Go on where over a tenth of the pictures cannot be read.")]
StudyName = Annotated[
    str, typer.Argument(metavar="STUDY", help="A study's name, or its folder.", autocompletion=study_names)
]
Backbones = Annotated[
    str | None,
    typer.Option(help="Backbones to search, by name, with commas between.", autocompletion=backbone_names),
]
BackboneName = Annotated[
    str, typer.Option(help="The backbone to test, by name.", show_default=False, autocompletion=backbone_names)
]
MetricName = Annotated[str | None, typer.Option(help=f"{either(list(METRICS))}.", autocompletion=metric_names)]


def print_json(found: dict[str, Any]) -> None:
    typer.echo(json.dumps(found, indent=2))


def confirmed(question: str, beforehand: str) -> bool:
    """Ask. Raises ConfigError where nobody can answer."""
    if not sys.stdin.isatty():
        raise ConfigError("Nobody is there to be asked.", f"Say it beforehand: autotune {beforehand}")
    return typer.confirm(question)
