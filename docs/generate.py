"""Writes cli.md and study-toml.md from the code: python docs/generate.py. Tests compare them with it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo

from autotune.search.fields import choices, limits
from autotune.search.settings import SearchSpace, Settings, definition

HERE = Path(__file__).parent
DECIDED = (None, "by default")  # what `definition` holds for what the pictures and the machine decide


def cli() -> str:
    """The reference of the command line, by Typer's own generator."""
    command = [sys.executable, "-m", "typer", "autotune.cli.app", "utils", "docs", "--name", "autotune"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() + "\n"


def study_toml() -> str:
    """The reference of study.toml, from the fields of the models."""
    defaults = definition(Settings())
    ranges = defaults.pop("space")
    lines = [
        "# study.toml\n",
        "A study's whole definition; every line may be left out. It is read from `studies/NAME/study.toml`, or from",
        "the file that `--config` names. Flags override it. All that is unknown or out of range is reported at once.\n",
        "| setting | default | may be | meaning |\n|---|---|---|---|",
        *(_row(name, default, Settings.model_fields[name]) for name, default in defaults.items()),
        "\n## [space]\n",
        "What is searched. A value is fixed, a list is a choice, a table `{ low, high, log, step }` is a range.\n",
        "| name | default | may be | meaning |\n|---|---|---|---|",
        *(_row(name, default, SearchSpace.model_fields[name]) for name, default in ranges.items()),
    ]
    return "\n".join(lines) + "\n"


def _row(name: str, default: Any, field: FieldInfo) -> str:
    names = choices(field)
    allowed = limits(field) if names is None else _listed(names)
    assert field.description, f"{name} has no description"
    return f"| `{name}` | {_literal(default)} | {allowed} | {' '.join(field.description.split())} |"


def _listed(names: Collection[str]) -> str:
    """Names; those of a table with the label of their entry, where that says more than the name."""
    labels = {name: entry.label for name, entry in names.items()} if isinstance(names, Mapping) else {}
    told = {name: label for name, label in labels.items() if label.lower() != name.replace("_", " ")}
    return ", ".join(f"{name} ({told[name]})" if name in told else name for name in sorted(names))


def _literal(value: Any) -> str:
    if value in DECIDED:
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
