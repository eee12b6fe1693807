"""What the README says is so."""

import re
from pathlib import Path

from autotune.backbones.registry import discover
from autotune.search.settings import SearchSpace, Settings, read_settings
from autotune.testing import check_backbone

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def block(kind: str, holds: str = "") -> str:
    """The first piece of code of a kind that holds a text."""
    found: list[str] = re.findall(rf"```{kind}\n(.*?)```", README, re.DOTALL)
    return next(text for text in found if holds in text)


def test_its_plugin_is_found_and_passes_its_check(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(block("python", "@backbone").replace("def mobilenet_v2", "def mine"))
    check_backbone("mine", plugins=[tmp_path])
    assert discover([tmp_path]).find("mine").label == "MobileNetV2"


def test_its_study_toml_is_accepted_and_names_every_setting(tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text(block("toml"))
    settings = read_settings(tmp_path / "study.toml", {})
    assert settings.epochs == 12
    for name in {*Settings.model_fields, *SearchSpace.model_fields} - {"space"}:
        assert re.search(rf"^{name} = ", block("toml"), re.MULTILINE), name


def test_its_defaults_are_the_defaults(tmp_path: Path) -> None:
    decided = r"^(epochs|cycle_epochs|backbone|depth|pixels|lr_low|lr_high|class_weight) = .*\n"
    (tmp_path / "study.toml").write_text(re.sub(decided, "", block("toml"), flags=re.MULTILINE))
    assert read_settings(tmp_path / "study.toml", {}) == Settings()
