"""Options shared by commands, their shell completion, printing of JSON and confirmation prompts."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer

from autotune.errors import ConfigError
from autotune.formats.table import timed_formats
from autotune.text import either
from autotune.trackers.base import TRACKERS
from autotune.training.metrics import METRICS

DURATION = re.compile(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m(?:in)?)?(?:(\d+(?:\.\d+)?)s?)?")
_reserved: list[TextIO] = []  # the standard output, while `reserve_stdout` has sent it elsewhere


def study_names(incomplete: str) -> list[str]:
    """Complete the names of the studies in this folder."""
    from autotune.study.summary import STUDIES

    names = sorted(file.parent.name for file in STUDIES.glob("*/record.db"))
    return [name for name in names if name.startswith(incomplete)]


def backbone_names(incomplete: str) -> list[str]:
    """Complete the names of bundled and installed backbones, also after a comma."""
    from autotune.backbones.recommended import LISTS, RECOMMENDED
    from autotune.backbones.registry import discover

    before, comma, last = incomplete.rpartition(",")
    names = [RECOMMENDED, *LISTS, *(entry.name + ":" * entry.takes_variant for entry in discover().backbones)]
    return [before + comma + name for name in names if name.startswith(last)]


def metric_names(incomplete: str) -> list[str]:
    """Complete the names of metrics."""
    return [name for name in METRICS if name.startswith(incomplete)]


Data = Annotated[
    Path | None,
    typer.Argument(
        help="A folder with one subfolder per class (or with train/, val/ and test/), a CSV or TSV file with columns "
        "path,label, or the name of a torchvision dataset. Default: the built-in digits."
    ),
]


def reserve_stdout(context: typer.Context, wanted: bool) -> bool:
    """Send what is printed to stderr until the command ends, except through `program_out`: plugins may print anything.

    Native libraries included, where stdout is a file of the system.
    """
    if wanted and not _reserved:
        before = sys.stdout
        number: int | None = None
        out: TextIO = before
        try:
            number = before.fileno()
            out = os.fdopen(os.dup(number), "w", encoding="utf-8", errors="backslashreplace")
            os.dup2(sys.stderr.fileno(), number)
        except OSError:  # replaced by an object that is no file of the system
            number = None
        sys.stdout = sys.stderr
        _reserved.append(out)

        def restore() -> None:
            sys.stdout = before
            _reserved.clear()
            if number is not None:
                out.flush()
                os.dup2(out.fileno(), number)

        context.call_on_close(restore)
    return wanted


Json = Annotated[
    bool,
    typer.Option("--json", callback=reserve_stdout, help="Print one JSON object and nothing else on stdout."),
]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print errors only.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the plan and its estimated cost, then exit.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Show more detail, including what is cached.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")]
Plugins = Annotated[list[Path] | None, typer.Option("--plugins", help="Folder with backbone plugins; can be repeated.")]
WeightsDir = Annotated[
    Path | None, typer.Option("--weights", help="Folder with weights: BACKBONE.safetensors or BACKBONE.pth.")
]
Device = Annotated[str, typer.Option(help="Device to compute on: auto, cpu, cuda or mps.")]
Workers = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Trials at once, one process each: on each GPU, or on the CPU (default: 1); with --engine ray in total "
        "(default: one on each GPU, or else on each machine).",
    ),
]
EngineName = Annotated[str, typer.Option(help="Where trials run: local, on this machine, or ray, on a Ray cluster.")]
ClusterAddress = Annotated[
    str | None,
    typer.Option("--address", help="HOST:PORT of a Ray cluster, or auto. Default: RAY_ADDRESS, or this machine alone."),
]
GpusPerTrial = Annotated[float | None, typer.Option(help="With --engine ray: GPUs of a trial, e.g. 0.5. Default: 1.")]
Manifest = Annotated[
    Path | None, typer.Option("--manifest", help="manifest.csv of an earlier study, to keep only its split.")
]
EarlierStudy = Annotated[
    str | None,
    typer.Option(
        "--after",
        metavar="STUDY",
        help="Earlier study of some of these pictures: keep its split, start with its best choices, and compare the "
        "models.",
        autocompletion=study_names,
    ),
]
TrackerName = Annotated[
    str | None,
    typer.Option(
        "--track", metavar="TRACKER", help=f"Also send curves, scores, report and bundle to {either(list(TRACKERS))}."
    ),
]
NewStudyName = Annotated[str | None, typer.Option(help="Name of the study; default: the name of the data folder.")]
ConfigFile = Annotated[
    Path | None, typer.Option("--config", help="Configuration file; default: studies/NAME/study.toml, if it exists.")
]


def seconds_of(text: str) -> float:
    """Parse a duration: 300, 90s, 5m, 2h, 1h30m; a number alone is in seconds."""
    found = DURATION.fullmatch(text.replace(" ", "").lower())
    if not found or not any(found.groups()):
        raise typer.BadParameter(f"{text!r} is not a duration. Examples: 300, 90s, 5m, 2h, 1h30m.")
    return sum(float(part or 0) * unit for part, unit in zip(found.groups(), (3600, 60, 1), strict=True))


GroupBy = Annotated[
    str | None,
    typer.Option(
        "--group-by",
        help="Recognise the pictures of one visit, which are kept together, by auto, none, time (EXIF), name (of the "
        "file), folder (below the class) or a regular expression for paths; default: auto.",
    ),
]
SkipUnreadable = Annotated[
    bool, typer.Option("--skip-unreadable", help="Continue even if more than 10 % of the pictures cannot be read.")
]
StudyName = Annotated[
    str, typer.Argument(metavar="STUDY", help="Name or folder of a study.", autocompletion=study_names)
]
BackboneNames = Annotated[
    str | None,
    typer.Option(help="Backbones to search, separated by commas, or `recommended`.", autocompletion=backbone_names),
]
BackboneName = Annotated[str, typer.Option(help="Backbone to test.", show_default=False, autocompletion=backbone_names)]
MetricName = Annotated[
    str | None, typer.Option(help=f"Metric to optimize: {either(list(METRICS))}.", autocompletion=metric_names)
]


def print_json(found: dict[str, Any]) -> None:
    out = program_out()
    out.write(json.dumps(found, indent=2) + "\n")
    out.flush()


def program_out() -> TextIO:
    """Return the standard output, also if it is reserved."""
    return _reserved[0] if _reserved else sys.stdout


def confirmed(question: str, command: str) -> bool:
    """Ask for confirmation. Raises ConfigError if stdin is no terminal; `command` is the one that does not ask."""
    if not sys.stdin.isatty():
        raise ConfigError("Confirmation is needed, but stdin is not a terminal.", f"Run: autotune {command}")
    return typer.confirm(question)


TimeLimit = Annotated[
    float | None,
    typer.Option(
        parser=seconds_of,
        metavar="DURATION",
        help="Finish within this time (300, 5m, 2h), including the finals and the test.",
    ),
]
MaxMs = Annotated[
    float | None,
    typer.Option(
        metavar="MS",
        help="Leave out backbones and sizes that take more milliseconds for a picture, on one thread without decoding.",
    ),
]
MaxMb = Annotated[
    float | None, typer.Option(metavar="MB", help="Leave out backbones whose exported file is larger, in megabytes.")
]
BudgetFormat = Annotated[
    str | None,
    typer.Option(help=f"Format that --max-ms and --max-mb are about: {either(timed_formats())}; default: onnx."),
]
DeviceProfileFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="What networks cost on another device, written there by `autotune profile`; default: this machine.",
    ),
]


def listed(text: str | None) -> list[str] | None:
    """Split names at commas."""
    return None if text is None else [part.strip() for part in text.split(",") if part.strip()]


def numbers(text: str | None) -> list[int | str] | None:
    """Convert whole numbers; leave anything else for the settings check to reject."""
    parts = listed(text)
    return None if parts is None else [int(part) if part.isdecimal() else part for part in parts]
