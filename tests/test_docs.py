"""What docs/ says is so."""

import html
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from autotune.backbones.registry import discover
from autotune.cli.app import app
from autotune.errors import PluginError
from autotune.search.sampler import PRUNERS, SAMPLERS, Pruner, Sampler
from autotune.testing import check_backbone

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


def test_the_page_of_study_toml_is_as_the_code_is(generate: Any) -> None:
    written = (DOCS / "study-toml.md").read_text(encoding="utf-8")
    assert written == generate.study_toml(), "run: make docs"


def test_a_sampler_and_a_pruner_are_on_the_page_by_their_entries(
    generate: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SAMPLERS, "mine", Sampler("my own", SAMPLERS["random"].build))
    monkeypatch.setitem(PRUNERS, "none_of_it", Pruner("as mine is", PRUNERS["none"].build))
    page = generate.study_toml()
    assert re.search(r"^\| `sampler` .*, mine \(my own\), ", page, re.MULTILINE)
    assert re.search(r"^\| `pruner` .*, none_of_it \(as mine is\), ", page, re.MULTILINE)


def test_the_page_of_the_command_line_has_every_option_as_it_is_and_no_other() -> None:
    """Compared by content, because Typer words its pages anew from version to version."""
    page = " ".join(html.unescape((DOCS / "cli.md").read_text(encoding="utf-8")).split())
    known = {"--help", "--install-completion", "--show-completion"}
    for name, command in _commands(get_command(app), "autotune"):
        assert f"`{name}`" in page, f"{name}: run: make docs"
        for param in command.params:
            known |= {option for option in (*param.opts, *param.secondary_opts) if option.startswith("--")}
            told = " ".join((getattr(param, "help", None) or "").split())
            assert told in page, f"{name} {param.name}: run: make docs"
    assert set(re.findall(r"`(?:-\w, )?(--[\w-]+)", page)) <= known


def _commands(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    yield name, command
    for inner, other in getattr(command, "commands", {}).items():
        yield from _commands(other, f"{name} {inner}")


@pytest.mark.parametrize("name", ["densenet121", "two_branches", "quarter:16", "timm_scratch:test_resnet"])
def test_backbones_of_the_page_pass_their_check(name: str, tmp_path: Path) -> None:
    page = (DOCS / "backbones.md").read_text(encoding="utf-8")
    files = [text for text in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if text.startswith('"""')]
    assert len(files) == 4
    function = name.partition(":")[0]
    (code,) = [text for text in files if f"def {function}(" in text]
    (tmp_path / f"{function}.py").write_text(code)
    check_backbone(name, plugins=[tmp_path])
    if function == "quarter":
        assert discover([tmp_path]).find(name).traits.pixels == 64
        with pytest.raises(PluginError, match="'quarter:x'"):
            discover([tmp_path]).find("quarter:x")


@pytest.mark.parametrize("name", ["near_duplicates", "gap"])
def test_tables_are_those_that_were_measured(name: str) -> None:
    assert (ROOT / "benchmarks" / f"{name}.txt").read_text().strip() in (DOCS / "ideas.md").read_text()


def test_the_catalogue_lists_the_bundled_backbones() -> None:
    page = (DOCS / "backbones.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"^\| `(\w+)[:`]", page.partition("## Catalogue")[2].partition("\n## ")[0], re.MULTILINE))
    assert listed == {entry.name for entry in discover().backbones if entry.name != "quick_cnn"}


def test_the_architecture_page_names_every_room_and_only_files_that_exist() -> None:
    page = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    home = ROOT / "autotune"
    rooms = re.findall(r"^\| ((?:`[\w.]+/?` ?)+) \|", page, re.MULTILINE)
    named = {name.rstrip("/") for row in rooms for name in re.findall(r"`([\w.]+/?)`", row)}
    assert named == {path.name for path in home.iterdir() if path.is_dir() or path.name[:2] != "__"} - {
        "__pycache__",
        "py.typed",
    }
    for file in re.findall(
        r"`((?:data|backbones|cache|training|search|engines|study|export|report|cli)/\w+\.\w+)`", page
    ):
        assert (home / file).is_file(), file
