"""Write cli.md and study-toml.md from the code: make docs. Tests compare the pages with it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo

from autotune.search.fields import choices, limits
from autotune.search.settings import BY_DEFAULT, RecipePhase, SearchSpace, Settings, definition

HERE = Path(__file__).parent
REQUIRED = "required"
AUTOMATIC = (None, BY_DEFAULT)  # what `definition` contains for settings that depend on the pictures and the machine


def cli() -> str:
    """The command line reference, from Typer's generator."""
    command = [sys.executable, "-m", "typer", "autotune.cli.app", "utils", "docs", "--name", "autotune"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() + "\n"


def study_toml() -> str:
    """The reference of study.toml, from the fields of the models."""
    defaults = definition(Settings())
    ranges = defaults.pop("space")
    lines = [
        "# study.toml\n",
        "The configuration of a study. Every setting is optional. The file is read from `studies/NAME/study.toml`, or",
        "from the path given with `--config`. Command line options override it. All unknown names and values out of",
        "range are reported at once.\n",
        "| setting | default | allowed values | meaning |\n|---|---|---|---|",
        *(_row(name, value, Settings.model_fields[name]) for name, value in defaults.items() if name != "recipe"),
        "\n## [[recipe]]\n",
        "The first trial of a study, in phases: each table is one. They are trained one after another on one network,",
        "which starts with a random head.\n",
        "| setting | default | allowed values | meaning |\n|---|---|---|---|",
        *(
            _row(name, REQUIRED if field.is_required() else field.default, field)
            for name, field in RecipePhase.model_fields.items()
        ),
        "\n## [space]\n",
        "The search space. A value is fixed, a list is a choice, a table `{ low, high, log, step }` is a range.\n",
        "| name | default | allowed values | meaning |\n|---|---|---|---|",
        *(_row(name, default, SearchSpace.model_fields[name]) for name, default in ranges.items()),
    ]
    return "\n".join(lines) + "\n"


def _row(name: str, default: Any, field: FieldInfo) -> str:
    names = choices(field)
    allowed = limits(field) if names is None else _listed(names)
    assert field.description, f"{name} has no description"
    return f"| `{name}` | {_literal(default)} | {allowed} | {' '.join(field.description.split())} |"


def _listed(names: Collection[str]) -> str:
    """List names; those of a table with their label, if it differs from the name."""
    labels = {name: entry.label for name, entry in names.items()} if isinstance(names, Mapping) else {}
    shown = {name: label for name, label in labels.items() if label.lower() != name.replace("_", " ")}
    return ", ".join(f"{name} ({shown[name]})" if name in shown else name for name in sorted(names))


def _literal(value: Any) -> str:
    if value == REQUIRED:
        return REQUIRED
    if value in AUTOMATIC:
        return "automatic"
    if isinstance(value, dict):
        shown = {key: str(edge).lower() for key, edge in value.items() if key in ("low", "high") or edge}
        return f"`{{ {', '.join(f'{key} = {edge}' for key, edge in shown.items())} }}`"
    if isinstance(value, list):
        return ", ".join(f"`{one}`" for one in value)
    return f"`{value}`"


def main() -> None:
    (HERE / "cli.md").write_text(cli(), encoding="utf-8")
    (HERE / "study-toml.md").write_text(study_toml(), encoding="utf-8")


if __name__ == "__main__":
    main()
