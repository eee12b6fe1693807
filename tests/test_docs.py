"""What docs/ says is so."""

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest

from autotune import contract, plugins, weights

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"


@pytest.fixture(scope="module")
def generate() -> Any:
    spec = importlib.util.spec_from_file_location("generate", DOCS / "generate.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("file", "source"), [("cli.md", "cli"), ("study-toml.md", "study_toml")])
def test_generated_pages_are_as_the_code_is(generate: Any, file: str, source: str) -> None:
    written = (DOCS / file).read_text(encoding="utf-8")
    assert written == getattr(generate, source)(), "run: python docs/generate.py"


def test_the_pages_backbone_keeps_the_contract(tmp_path: Path) -> None:
    page = (DOCS / "backbones.md").read_text(encoding="utf-8")
    (code,) = [text for text in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if text.startswith('"""')]
    (tmp_path / "quarter.py").write_text(code)
    entry = plugins.catalogue([tmp_path]).find("quarter:16")
    assert [one for one in contract.check(entry, weights.find(entry)) if one.problem] == []
    assert entry.traits.pixels == 64
    with pytest.raises(plugins.PluginError, match="no backbone 'quarter:x'"):
        plugins.catalogue([tmp_path]).find("quarter:x")


@pytest.mark.parametrize("name", ["near_copies", "gap"])
def test_tables_are_those_that_were_measured(name: str) -> None:
    assert (ROOT / "benchmarks" / f"{name}.txt").read_text().strip() in (DOCS / "ideas.md").read_text()


def test_links_lead_somewhere() -> None:
    for page in (*DOCS.glob("*.md"), ROOT / "README.md"):
        for place in re.findall(r"\]\((?!https?://)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / place).exists(), f"{page.name}: {place}"


def test_the_readmes_catalogue_is_the_one_there_is() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    told = set(re.findall(r"^\| `(\w+)[:`]", readme.partition("## Backbones")[2], re.MULTILINE))
    assert told == {entry.name for entry in plugins.catalogue().backbones}
