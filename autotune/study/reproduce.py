"""The command and the study.toml that reproduce a study."""

from __future__ import annotations

import json
import platform
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from autotune.data import datasets
from autotune.search.settings import BY_DEFAULT, read_settings
from autotune.search.settings import definition as definition_of

PACKAGES = (
    "autotune-vision", "torch", "torchvision", "pytorch-lightning", "optuna", "timm", "onnx", "onnxruntime", "numpy",
    "pillow",
)  # fmt: skip
_FLAGS = ("metric", "epochs", "backbone", "pixels")  # settings with a command line option, except the seed


@dataclass(frozen=True)
class Reproduction:
    """How to reproduce a study.

    command: one line for a shell. toml: the study.toml that it needs, "" for none. definition: every setting and range
    as text. versions: of the installed packages.
    """

    command: str
    toml: str
    definition: dict[str, str]
    versions: dict[str, str]


def reproduction(
    definition: Mapping[str, Any], source: str, name: str, n_trials: int, after: str | None = None
) -> Reproduction:
    """Return how to reproduce the study called name. definition, source, after: from its record."""
    data = Path(source) if source else None
    default = definition_of(read_settings(None, {}, is_writing=datasets.is_writing(data)))
    words = ["autotune", "search", *([source] if source else []), "--trials", str(n_trials)]
    if name != datasets.default_study_name(data):
        words += ["--study", name]
    words += ["--after", after] if after else []
    words += ["--seed", str(definition["seed"])]
    plain = {key: value for key, value in definition.items() if key not in ("space", "seed")}
    settings = {key: value for key, value in plain.items() if value != default[key]}
    ranges = {key: value for key, value in definition["space"].items() if value != default["space"][key]}
    for key in _FLAGS:
        table = ranges if key in ranges else settings
        if key in table and not isinstance(table[key], dict):
            words += [f"--{key}", _listed(table.pop(key))]
    toml = [f"{key} = {_toml(value)}" for key, value in settings.items()]
    if ranges:
        toml += ["", "[space]"] if toml else ["[space]"]
        toml += [f"{key} = {_toml(value)}" for key, value in ranges.items()]
    if toml:
        words += ["--config", "study.toml"]
    in_words = {key: _in_words(value) for key, value in {**plain, "seed": definition["seed"]}.items()}
    in_words |= {key: _in_words(value) for key, value in definition["space"].items()}
    return Reproduction(shlex.join(words), "\n".join(toml), in_words, _versions())


def _versions() -> dict[str, str]:
    found = {"Python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:  # an extra, or a checkout that is not installed
            continue
    return {**found, "system": f"{platform.system()} {platform.machine()}"}


def _listed(value: Any) -> str:
    return ",".join(str(one) for one in value) if isinstance(value, list) else str(value)


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        inner = ", ".join(
            f"{key} = {_toml(edge)}" for key, edge in value.items() if edge is not None and edge is not False
        )
        return f"{{ {inner} }}"
    if isinstance(value, list):
        return f"[{', '.join(_toml(one) for one in value)}]"
    return json.dumps(value, ensure_ascii=False)


def _in_words(value: Any) -> str:
    if value in (None, BY_DEFAULT):
        return "automatic"
    if isinstance(value, dict) and "low" not in value:  # a phase of the recipe
        return " ".join(f"{key}={_in_words(one)}" for key, one in value.items() if one is not None)
    if isinstance(value, dict):
        how = ", log" if value.get("log") else f", step {value['step']:g}" if value.get("step") else ""
        return f"{value['low']:g} to {value['high']:g}{how}"
    if isinstance(value, list):
        return ", ".join(_in_words(one) for one in value)
    return f"{value:g}" if isinstance(value, float) else str(value)
