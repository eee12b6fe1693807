import importlib.util
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from small_plugins import write_plugin

import autotune.testing
from autotune import backbone
from autotune.backbones.registry import discover
from autotune.backbones.spec import Backbone
from autotune.backbones.weights import find_weights
from autotune.errors import PluginError
from autotune.testing import CheckResult, check_backbone
from autotune.training.check import run_checks

LARGE = ("convnext_tiny", "vgg16", "vit_b_16")
BUNDLED = [entry for entry in discover().backbones if not entry.takes_variant]
PAGE = Path(__file__).resolve().parents[2] / "docs" / "backbones.md"


def problems(entry: Backbone) -> list[str]:
    return [result.problem for result in run_checks(entry, find_weights(entry)) if result.problem]


def function_in(file: Path) -> Callable[..., Any]:
    """Import the function that a plugin's file is named after, like its author's tests."""
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    function: Callable[..., Any] = getattr(module, file.stem)
    return function


@pytest.mark.parametrize(
    "entry",
    [pytest.param(one, id=one.name, marks=pytest.mark.in_make_faults if one.name in LARGE else ()) for one in BUNDLED],
)
def test_every_bundled_backbone_passes(entry: Backbone) -> None:
    if not entry.traits.fixed_pixels:  # smaller, for speed
        entry = replace(entry, traits=replace(entry.traits, pixels=96))
    assert problems(entry) == []


@pytest.mark.parametrize(
    ("stages", "problem"),
    [
        ("nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(1)", "Stage 1 of backbone 'tiny' has no parameters"),
        ("nn.Conv2d(3, 8, 3)", "returns shape (8, 30, 30) per picture"),
        ("nn.Sequential(nn.Flatten(1), nn.Linear(3072, 9))", "returns shape (9,) per picture"),
        ("nn.Linear(7, 8)", "fails at 32 pixels"),
        ("nn.Sequential(nn.Flatten(1), nn.Linear(3072, 8), nn.InstanceNorm1d(8))", ""),
        ("1 / 0", "ZeroDivisionError"),
        ("", "not an nn.Sequential of stages"),
        ("nn.MultiheadAttention(32, 1)", "fails at 32 pixels"),
        ("nn.Sequential(nn.Flatten(1), nn.Linear(3072, 8).requires_grad_(False)), nn.Linear(8, 8)", ""),
        (
            "nn.Sequential(nn.Flatten(1), nn.Linear(3072, 8), "
            "type('BatchDependent', (nn.Module,), {'forward': lambda self, x: x - x.mean(0)})())",
            "features of a single picture differ",
        ),
        (
            "nn.Sequential(nn.Flatten(1), nn.Linear(3072, 8), "
            "type('ModeDependent', (nn.Module,), {'forward': lambda self, x: x * (2 if self.training else 1)})())",
            "other features in training mode",
        ),
        (
            "nn.Sequential(nn.Flatten(1), nn.Linear(3072, 8)), "
            "type('Cut', (nn.Linear,), {'forward': lambda self, x: nn.Linear.forward(self, x.detach())})(8, 8)",
            "No gradient reaches stage 0",
        ),
    ],
)
def test_the_check_detects_mistakes(tmp_path: Path, stages: str, problem: str) -> None:
    write_plugin(tmp_path, stages=stages)
    found = problems(discover([tmp_path]).find("tiny"))
    assert (problem in " ".join(found)) if problem else (found == [])


def test_a_valid_backbone_passes_by_name_and_by_function(tmp_path: Path) -> None:
    file = write_plugin(tmp_path)
    reported: list[CheckResult] = []
    results = check_backbone("tiny", plugins=[str(tmp_path)], callback=reported.append)
    assert results == reported
    assert len(results) >= 6
    assert all(result.passed for result in results)
    assert check_backbone(function_in(file)) == results


def test_all_problems_are_raised_together(tmp_path: Path) -> None:
    forward = "lambda self, x: (x - x.mean(0)) * (2 if self.training else 1)"
    last = f"type('ModeDependent', (nn.Module,), {{'forward': {forward}}})()"
    file = write_plugin(tmp_path, stages=f"nn.Sequential(nn.Flatten(1), nn.Linear(3072, 8), {last})")
    with pytest.raises(PluginError, match="'tiny' fails its check") as error:
        check_backbone(function_in(file))
    assert "features of a single picture differ" in error.value.problem
    assert "other features in training mode" in error.value.problem
    assert error.value.fix == f"Fix {file}."


def test_an_error_names_the_backbone_and_its_file_once(tmp_path: Path) -> None:
    file = write_plugin(tmp_path, stages="1 / 0")
    with pytest.raises(PluginError) as error:
        check_backbone("tiny", plugins=[tmp_path])
    assert error.value.problem == "Backbone 'tiny' does not load: ZeroDivisionError: division by zero"
    assert error.value.fix == f"Fix {file}."


def test_user_weights_are_checked_too(tmp_path: Path) -> None:
    (tmp_path / "resnet18.pth").write_bytes(b"x")
    with pytest.raises(PluginError, match=r"resnet18\.pth cannot be read") as error:
        check_backbone("resnet18", weights=tmp_path)
    assert "resnet.py" not in error.value.fix


def test_nested_unmarked_and_unknown_backbones_raise() -> None:
    @backbone(pixels=32)
    def nested(pretrained: bool) -> None: ...

    with pytest.raises(PluginError, match="not at the top level"):
        check_backbone(nested)
    with pytest.raises(PluginError, match="no decorator @backbone"):
        check_backbone(function_in)
    with pytest.raises(PluginError, match="No backbone named 'resnet19'"):
        check_backbone("resnet19")


def test_the_example_in_the_docs_tests_a_backbone(here: Path) -> None:
    page = PAGE.read_text(encoding="utf-8")
    (code,) = [text for text in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "check_backbone" in text]
    file = write_plugin(here, "my_net")
    names: dict[str, Any] = {}
    exec(code, names)
    names["test_my_net"]()
    file.write_text(file.read_text().replace("features=8", "features=9"))
    with pytest.raises(PluginError, match=r"returns shape \(8,\) per picture"):
        names["test_my_net"]()


def test_only_the_check_and_its_result_are_public() -> None:
    assert autotune.testing.__all__ == ["CheckResult", "check_backbone"]
