"""Writes cli.md and study-toml.md from the code: python docs/generate.py. Tests hold them to it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from autotune.search.settings import _NAMES, _SETTINGS, Settings, definition

HERE = Path(__file__).parent
MEANT = {
    "metric": "What the search maximises, and what is told of the test.",
    "epochs": "The most a trial may have. By default about 6,000 pictures' worth, between 4 and 12.",
    "cycle_epochs": "Epochs of one learning-rate cycle; the pruner looks at the ends of cycles. Give `epochs` too.",
    "patience": "Epochs (a cycle at least) without a better validation before the gap can end a trial.",
    "gap": "How far training may run ahead of validation, smoothed, as a difference of the metric.",
    "seed": "Decides the split, the trials and their randomness.",
    "sampler": "What chooses the next trial: Optuna's samplers.",
    "pruner": "What ends a trial that falls behind: Optuna's pruners.",
    "validation": "The share of the pictures that trials are compared on.",
    "test": "The share of the pictures that is sealed until the winner is tested.",
    "flips": "Which mirrorings leave the meaning of a picture as it is.",
    "angle": "The largest turn that leaves it, in degrees; augmentation turns by up to that.",
    "backbone": "The networks, by name. By default those whose weights are on this machine.",
    "depth": "The last stages that train; 0: the head alone. By default all; on a CPU, tails of at most 40 % of work.",
    "pixels": "Side of the square that pictures are resized to. By default the backbone's, less for small pictures.",
    "lr_low": "The lower bound of the learning-rate cycle. By default 1e-6 to 1e-4, log, times the optimizer's factor.",
    "lr_high": "The upper bound. By default 1e-4 to 1e-2, log, times the optimizer's factor.",
    "class_weight": "c of (1 / frequency)^c. By default searched, from 0 to 1, where classes are uneven; else 0.",
    "cycle": "How the learning rate moves between its bounds.",
    "augment": "Strength; 1 is shift 20 %, shear 30 %, zoom 10 %, channel shift 20 %, and the whole `angle`.",
    "optimizer": "The factor of the default rates: 1, for sgd and adagrad 10, for adadelta 1000.",
    "batch_size": "Pictures a step.",
    "weight_decay": "Of the optimizer; decoupled for adamw.",
    "dropout": "Before the head.",
    "label_smoothing": "Of the cross-entropy.",
    "mixup": "Alpha of the Beta distribution that two pictures are mixed by, where the tail begins; 0 mixes none.",
}
NOBODY = object()  # what no setting can be, so that each says what it can


def cli() -> str:
    """The reference of the command line, by Typer's own generator."""
    command = [sys.executable, "-m", "typer", "autotune.cli.app", "utils", "docs", "--name", "autotune"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() + "\n"


def study_toml() -> str:
    defaults = definition(Settings())
    lines = [
        "# study.toml\n",
        "All of a study's definition; every line may be left out. It is read from `studies/NAME/study.toml`, or from",
        "where `--config` says. A flag goes before it. What is unknown or out of range is told, all of it at once.\n",
        "| setting | default | may be | meaning |\n|---|---|---|---|",
        *(_row(name, _literal(defaults[name]), _SETTINGS[name]) for name in _SETTINGS),
        "\n## [space]\n",
        "What is searched. A value fixes, a list offers, a table `{ low, high, log, step }` ranges.\n",
        "| name | default | may be | meaning |\n|---|---|---|---|",
        *(_row(name, _literal(defaults["space"][name]), _NAMES[name]) for name in _NAMES),
    ]
    return "\n".join(lines) + "\n"


def _row(name: str, default: str, check: Any) -> str:
    said = check(NOBODY).removeprefix("Give a ").removeprefix("Choose from: ").rstrip(".")
    return f"| `{name}` | {default} | {said} | {MEANT[name]} |"


def _literal(value: Any) -> str:
    if value is None or value == "by default":
        return "decided"
    if isinstance(value, dict):
        told = {key: str(edge).lower() for key, edge in value.items() if key in ("low", "high") or edge}
        return f"`{{ {', '.join(f'{key} = {edge}' for key, edge in told.items())} }}`"
    if isinstance(value, list):
        return ", ".join(f"`{one}`" for one in value)
    return f"`{value}`"


def main() -> None:
    (HERE / "cli.md").write_text(cli(), encoding="utf-8")
    (HERE / "study-toml.md").write_text(study_toml(), encoding="utf-8")


if __name__ == "__main__":
    main()
