import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest

from autotune.search.settings import definition, read_settings
from autotune.study.reproduce import Reproduction, reproduction


def definition_from(found: Reproduction) -> dict[str, Any]:
    """Return the definition of a study run with a command and its study.toml."""
    words = shlex.split(found.command)
    first = words.index("--trials")
    flags = dict(zip(words[first::2], words[first + 1 :: 2], strict=True))
    table = tomllib.loads(found.toml)
    ranges = table.pop("space", {})
    for name in ("metric", "epochs", "seed"):
        if f"--{name}" in flags:
            value = flags[f"--{name}"]
            table[name] = value if name == "metric" else int(value)
    if "--backbone" in flags:
        ranges["backbone"] = flags["--backbone"].split(",")
    if "--pixels" in flags:
        ranges["pixels"] = [int(one) for one in flags["--pixels"].split(",")]
    assert ("--config" in flags) == bool(found.toml)
    return definition(read_settings(None, {**table, **ranges}))


@pytest.mark.parametrize(
    "flags",
    [
        {},
        {"seed": 7, "metric": "macro_f1", "backbone": ["a", "timm:b"], "pixels": [96, 128]},
        {"epochs": 12, "cycle_epochs": 3, "gap": 0.1, "augment": 0, "cycle": "one-cycle", "backbone": "a"},
        {
            "depth": {"low": 0, "high": 2},
            "pixels": {"low": 96, "high": 128, "step": 32},
            "lr_high": {"low": 1e-5, "high": 1e-3, "log": True},
            "augment": {"low": 0, "high": 1, "step": 0.5},
        },
    ],
)
def test_the_command_and_its_study_toml_reproduce_the_definition(flags: dict[str, Any], tmp_path: Path) -> None:
    defined = definition(read_settings(None, flags))
    found = reproduction(defined, str(tmp_path / "my photos"), "other", 30)
    assert definition_from(found) == defined
    assert shlex.split(found.command)[:3] == ["autotune", "search", str(tmp_path / "my photos")]
    assert "--study other" in found.command


def test_the_validation_share_of_an_earlier_version_is_reproduced() -> None:
    defined = {**definition(read_settings(None, {})), "validation": 0.1}  # its default, which it recorded
    found = reproduction(defined, "photos", "other", 30)
    assert found.toml == "validation = 0.1"
    assert definition_from(found) == defined


def test_the_command_for_the_built_in_sample_has_no_folder() -> None:
    defined = definition(read_settings(None, {}, is_writing=True))
    assert reproduction(defined, "", "digits", 50).command == "autotune search --trials 50 --seed 0"
