"""Imports of the package are declared in pyproject.toml."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_every_imported_distribution_is_declared() -> None:
    """Scripts that are only copied run elsewhere, with what is installed there."""
    imported = {name for folder in ("autotune", "plugins") for file in (ROOT / folder).rglob("*.py")
                if file.name not in ("space_app.py", "check_coreml.py") for name in imports(file)}  # fmt: skip
    external = imported - sys.stdlib_module_names - {"autotune", "autotune_plugins"}
    assert {"torch", "sqlalchemy"} <= external
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = [*project["dependencies"], *(one for extra in project["optional-dependencies"].values() for one in extra)]
    declared = {normalised(re.split(r"[\[<>=]", one)[0]) for one in named}
    known = packages_distributions()
    assert [
        name for name in sorted(external) if not declared & {normalised(one) for one in known.get(name, [name])}
    ] == []


def imports(file: Path) -> set[str]:
    """Return the top-level packages that a file imports with absolute imports."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {one.name.partition(".")[0] for one in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return found


def normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
