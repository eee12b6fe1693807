"""What the package imports, pyproject.toml declares."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_every_import_is_of_a_declared_distribution() -> None:
    imported = {name for folder in ("autotune", "plugins") for file in (ROOT / folder).rglob("*.py")
                for name in imports(file)}  # fmt: skip
    outside = imported - sys.stdlib_module_names - {"autotune", "autotune_plugins"}
    assert {"torch", "sqlalchemy"} <= outside
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = [*project["dependencies"], *(one for extra in project["optional-dependencies"].values() for one in extra)]
    declared = {normal(re.split(r"[\[<>=]", one)[0]) for one in named}
    known = packages_distributions()
    assert [name for name in sorted(outside) if not declared & {normal(one) for one in known.get(name, [name])}] == []


def imports(file: Path) -> set[str]:
    """The top-level packages that a file imports by their full names."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {one.name.partition(".")[0] for one in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return found


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
