"""The README and the pages in docs/ agree with the code: commands, settings, Python, names and limits."""

import re
import shlex
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from commands import run_command
from conftest import write_digits
from typer.main import get_command

from autotune.backbones.recommended import LISTS
from autotune.cache import eviction
from autotune.cli.app import app
from autotune.data.datasets import DATASETS, DIGITS
from autotune.formats.table import optional_formats
from autotune.report.report import TEMPLATE
from autotune.search.settings import SearchSpace, Settings, read_settings

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.glob("*.md"), *(ROOT / "examples").glob("*.md")])
GENERATED = ("cli.md", "study-toml.md")


def blocks(page: Path, language: str) -> list[str]:
    """The code blocks of a page in this language."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    return [text for name, text in found if name == language]


def commands(page: Path) -> Iterator[str]:
    """The commands in a page's code blocks and inline code."""
    text = page.read_text(encoding="utf-8")
    for line in re.findall(r"^(?:\$ )?(autotune [^\n]*)", "\n".join(blocks(page, "")), re.MULTILINE):
        yield line.partition("  # ")[0].strip()
    yield from re.findall(r"(?<!`)`(autotune [^`\n]+)`", text)


@pytest.mark.parametrize("page", [page for page in PAGES if page.name not in GENERATED], ids=lambda page: page.name)
def test_every_command_on_a_page_exists_with_its_options(page: Path) -> None:
    for line in commands(page):
        command: Any = get_command(app)
        words = shlex.split(line)[1:]
        while words and getattr(command, "commands", None) and not words[0].startswith("-"):
            assert words[0] in command.commands, f"{page.name}: {line}"
            command = command.commands[words.pop(0)]
        known = {"--help", "--install-completion", *(option for param in command.params for option in param.opts)}
        assert {word for word in words if re.match(r"--?[a-z]", word)} <= known, f"{page.name}: {line}"


def test_the_page_of_the_search_space_is_accepted_and_names_every_setting(tmp_path: Path) -> None:
    (text,) = blocks(DOCS / "search-space.md", "toml")
    (tmp_path / "study.toml").write_text(text)
    settings = read_settings(tmp_path / "study.toml", {})
    assert settings.epochs == 12
    assert [one.epochs for one in settings.recipe] == [10, 6]
    for name in {*Settings.model_fields, *SearchSpace.model_fields} - {"space", "recipe"}:
        assert re.search(rf"^{name} = ", text, re.MULTILINE), name


def test_defaults_on_the_page_of_the_search_space_are_the_defaults(tmp_path: Path) -> None:
    (text,) = blocks(DOCS / "search-space.md", "toml")
    names = (
        "epochs|cycle_epochs|validation|trial_timeout|max_ms|max_mb|backbone|depth|pixels|lr_low|lr_high|class_weight"
    )
    decided = rf"^({names}) = .*\n"
    text = re.sub(r"^\[\[recipe\]\](.|\n)*?\n\n", "", text, flags=re.MULTILINE)  # there is none by default
    (tmp_path / "study.toml").write_text(re.sub(decided, "", text, flags=re.MULTILINE))
    assert read_settings(tmp_path / "study.toml", {}) == Settings()


def test_the_page_of_data_names_every_data_set() -> None:
    text = (DOCS / "data.md").read_text(encoding="utf-8")
    listed = text.partition("torchvision dataset**")[2].partition("- **No argument**")[0]
    named = set(re.findall(r"`([a-z0-9-]+)`", listed))
    assert named == set(DATASETS) - {DIGITS}


def test_the_page_of_export_names_every_format() -> None:
    text = (DOCS / "export.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in text or f"--format {name}" in text for name in optional_formats())


def test_the_page_of_the_cache_has_its_limit_and_its_variables() -> None:
    text = (DOCS / "cache.md").read_text(encoding="utf-8")
    assert f"{eviction.MOST_BYTES // 10**9} GB, or half of the disk" in text
    assert f"`{eviction.LIMIT}`" in text


def test_the_page_of_the_report_names_every_section() -> None:
    titles = re.findall(r"<h2[^>]*>([^<{]+)", TEMPLATE.read_text(encoding="utf-8"))
    assert titles
    text = (DOCS / "report.md").read_text(encoding="utf-8")
    assert [title for title in titles if f"| {title.strip()} |" not in text] == []


@pytest.mark.slow
def test_the_page_of_python_runs(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it stands, but with digits for the photos, and fewer and smaller trials."""
    write_digits(here / "cats-dogs", classes=2, each=40)
    write_digits(here / "new", classes=2, each=3, first=40)
    next((here / "new").rglob("*.png")).rename(here / "one.jpg")
    (here / "studies" / "cats-dogs").mkdir(parents=True)
    (here / "studies" / "cats-dogs" / "study.toml").write_text("epochs = 4\n[space]\nbackbone = 'quick_cnn'\n")
    whole, settings = blocks(DOCS / "python.md", "python")
    exec(compile(whole.replace("trials=50", "trials=2"), "python.md", "exec"), {})
    assert (here / "bundle" / "model.int8.onnx").is_file()
    call = textwrap.dedent(settings).replace('"cats-dogs/",', '"cats-dogs/", study="s", trials=1, device="cpu",')
    exec(compile(call.replace("epochs=12", "epochs=1"), "python.md", "exec"), {"autotune": __import__("autotune")})
    assert run_command("status", "s").returncode == 0


def test_links_lead_somewhere() -> None:
    for page in PAGES:
        for place, anchor in re.findall(r"\]\((?!https?://)([^)#]*)(?:#([\w-]+))?\)", page.read_text(encoding="utf-8")):
            target = page.parent / place if place else page
            assert target.exists(), f"{page.name}: {place}"
            if anchor:
                heads = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), re.MULTILINE)
                assert anchor in {re.sub(r"[^\w -]", "", head).lower().replace(" ", "-") for head in heads}, anchor


def test_the_page_of_backbones_names_the_recommended_ones() -> None:
    text = (DOCS / "backbones.md").read_text(encoding="utf-8")
    for names in LISTS.values():
        assert all(f"| `{name}`" in text for name in names)
