"""The files in examples/ and the code of docs/backbones.md run as shown."""

import re
import runpy
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import write_digits
from torch import nn
from torchvision import models

import autotune
from autotune.backbones.profile import profile_stages
from autotune.backbones.registry import build_stages, discover
from autotune.backbones.spec import Backbone
from autotune.backbones.weights import find_weights, load_stages
from autotune.search.candidates import default_backbones, select_backbones
from autotune.search.settings import read_settings
from autotune.testing import check_backbone

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples"
PAGE = (ROOT / "docs" / "backbones.md").read_text(encoding="utf-8")
SETTINGS = """\
epochs = 8
pruner = "none"
final = "trial"

[space]
backbone = "quick_cnn"
optimizer = "adamw"
lr_high = 3e-3
"""


@dataclass(frozen=True)
class Ran:
    """A run of from_folder_to_prediction.py in `folder`. printed: its stdout."""

    folder: Path
    printed: str


def run_script(folder: Path, *words: str | Path) -> str:
    """Run Python in a new process, as a user does, and return its stdout."""
    done = subprocess.run([sys.executable, *map(str, words)], cwd=folder, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Ran:
    """The search example, a script without a main guard, on three digits. The study's own study.toml makes it short."""
    folder = tmp_path_factory.mktemp("ran")
    write_digits(folder / "photos")
    write_digits(folder / "new", each=4, first=60)
    (folder / "new" / "broken.png").write_bytes(b"not a picture")
    (folder / "studies" / "photos").mkdir(parents=True)
    (folder / "studies" / "photos" / "study.toml").write_text(SETTINGS)
    return Ran(folder, run_script(folder, EXAMPLES / "from_folder_to_prediction.py", "photos", "new"))


@pytest.mark.slow
def test_the_search_example_prints_trials_score_and_predictions(ran: Ran) -> None:
    assert "Best trial: Quick CNN, from scratch" in ran.printed
    assert re.search(
        r"^Test accuracy: [\d.]+% \(95 % interval [\d.]+% to [\d.]+%, \d+ pictures\)$", ran.printed, re.MULTILINE
    )
    lines = re.findall(r"^new/(\d)/\d+\.png: (\w+), ([\d.]+)%$", ran.printed, re.MULTILINE)
    assert len(lines) == 12
    for _, label, probability in lines:
        assert label == "unknown" or float(probability) >= 60  # unknown also if it is too far from the others
    assert sum(digit == label for digit, label, _ in lines) >= 6
    assert re.search(r"^new/broken\.png: not a picture", ran.printed, re.MULTILINE)


@pytest.mark.slow
def test_the_search_example_runs_again_without_training(
    ran: Ran, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (ran.folder / "bundle" / "bundle.json").read_text()
    monkeypatch.chdir(ran.folder)
    monkeypatch.setattr(sys, "argv", ["from_folder_to_prediction.py", "photos", "new"])
    runpy.run_path(str(EXAMPLES / "from_folder_to_prediction.py"))
    printed = capsys.readouterr().out
    assert not re.search(r"^trial +\d+ .*epoch", printed, re.MULTILINE)
    assert printed[printed.index("Best trial:") :] == ran.printed[ran.printed.index("Best trial:") :]
    assert (ran.folder / "bundle" / "bundle.json").read_text() == before


@pytest.mark.slow
def test_photos_are_copied_into_one_folder_per_label_without_loading_torch(ran: Ran) -> None:
    write_digits(ran.folder / "new" / "phone", classes=1, each=4, first=60)  # file names that new/0 has too
    code = "import runpy, sys; runpy.run_path(sys.argv[0], run_name='__main__'); print('torch' in sys.modules)"
    start = f"import sys; sys.argv = sys.argv[1:]; {code}"
    printed = run_script(ran.folder, "-c", start, EXAMPLES / "sort_photos.py", "bundle", "new", "sorted")
    assert printed.endswith("False\n")
    new, out = ran.folder / "new", ran.folder / "sorted"
    predictions = autotune.load(ran.folder / "bundle").predict(new)
    wanted = {Path(one.label or "unreadable", Path(one.path).relative_to(new)) for one in predictions}
    assert {file.relative_to(out) for file in out.rglob("*") if file.is_file()} == wanted
    assert {path.parts[0] for path in wanted} >= {"0", "2", "unreadable"}
    assert (out / "unreadable" / "broken.png").read_bytes() == b"not a picture"
    assert len(wanted) == len(predictions) == 17
    assert sum(map(int, re.findall(r"^ +(\d+) ", printed, re.MULTILINE))) == 17


@pytest.mark.slow
def test_a_photo_that_cannot_be_copied_does_not_stop_the_others(ran: Ran, tmp_path: Path) -> None:
    (tmp_path / "unreadable").write_text("a file where a folder is needed")
    counts = runpy.run_path(str(EXAMPLES / "sort_photos.py"))["sort"](
        ran.folder / "bundle", ran.folder / "new", tmp_path
    )
    assert counts["(not copied)"] == 1
    assert sum(counts.values()) == len(list(tmp_path.rglob("*.png"))) + 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("bundle", "photos", "photos"), "photos exists"),
        (("bundle", "nowhere", "sorted"), "nowhere is not a folder"),
        (("bundle", "photos", "sorted"), "bundle"),
    ],
)
def test_sorting_reports_wrong_arguments(
    words: tuple[str, ...],
    message: str,
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (here / "photos").mkdir()
    (here / "bundle").mkdir()
    monkeypatch.setattr(sys, "argv", ["sort_photos.py", *words])
    with pytest.raises(SystemExit) as leave:
        runpy.run_path(str(EXAMPLES / "sort_photos.py"), run_name="__main__")
    assert message in f"{leave.value.code} {capsys.readouterr().err}"
    assert not (here / "sorted").exists()


def test_the_readme_of_the_examples_names_every_file() -> None:
    readme = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    files = {str(file.relative_to(EXAMPLES)) for file in EXAMPLES.rglob("*.py")}
    assert files == set(re.findall(r"\]\(([\w/]+\.py)\)", readme))


def on_page(holds: str) -> str:
    """The only code block of docs/backbones.md that contains a text."""
    (block,) = [text for text in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if holds in text]
    return str(block)


def page_backbone(name: str, folder: Path) -> Backbone:
    """A backbone of docs/backbones.md, written to a folder and discovered there."""
    function = name.partition(":")[0]
    (folder / f"{function}.py").write_text(on_page(f"def {function}("))
    return discover([folder]).find(name)


def from_torchvision(name: str, folder: Path) -> tuple[Backbone, nn.Module, Any]:
    """A backbone, torchvision's network without its classifier, and torchvision's entry for the weights."""
    if name == "densenet121":
        entry, net, weights = page_backbone(name, folder), models.densenet121(), models.DenseNet121_Weights
        net.classifier = nn.Identity()
    else:
        entry = discover([EXAMPLES / "plugins"]).find(name)
        net, weights = models.shufflenet_v2_x0_5(), models.ShuffleNet_V2_X0_5_Weights
        net.fc = nn.Identity()
    return entry, net.eval(), weights.IMAGENET1K_V1


TORCHVISION = pytest.mark.parametrize("name", ["densenet121", "shufflenet_v2_x0_5"])


@TORCHVISION
def test_features_equal_those_of_torchvision_on_the_same_pixels(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    entry, net, _ = from_torchvision(name, tmp_path)
    for module in net.modules():  # as after training: mean 0 and variance 1 would hide swapped layers
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            nn.init.normal_(module.running_mean, 0, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    torch.save(net.state_dict(), tmp_path / f"{name}.pth")
    chain = load_stages(entry, find_weights(entry, tmp_path)).eval()
    x = torch.randn(2, 3, 96, 96)
    with torch.no_grad():
        found, wanted = chain(x), net(x)
    assert wanted.std() > 1e-3
    torch.testing.assert_close(found, wanted)


@TORCHVISION
def test_weights_size_and_parameters_are_as_stated(name: str, tmp_path: Path) -> None:
    entry, net, weights = from_torchvision(name, tmp_path)
    assert entry.traits.weights == weights.url
    assert entry.traits.megabytes == round(weights.meta["_file_size"])
    assert tuple(weights.transforms().mean) == entry.traits.mean
    assert weights.transforms().interpolation.value == entry.traits.interpolation
    parameters = sum(p.numel() for p in build_stages(entry, pretrained=False).parameters())
    assert parameters == sum(p.numel() for p in net.parameters())
    assert f"{parameters / 1e6:.1f} M parameters" in entry.description


def test_the_plugin_example_passes_its_check() -> None:
    check_backbone("shufflenet_v2_x0_5", plugins=[EXAMPLES / "plugins"])


def test_the_plugin_example_needs_the_fewest_operations() -> None:
    """Its comment names this as the reason to add it. In millions of multiply-adds at 224 pixels."""
    found = {}
    registry = discover([EXAMPLES / "plugins"])
    for name in ("shufflenet_v2_x0_5", "mobilenet_v3_small"):
        entry = registry.find(name)
        found[name] = round(sum(profile_stages(entry, build_stages(entry, pretrained=False), 224).operations) / 2e6)
    text = (EXAMPLES / "plugins" / "my_backbone.py").read_text(encoding="utf-8")
    assert re.findall(r"needs? (\d+) M", text) == [str(found["shufflenet_v2_x0_5"]), str(found["mobilenet_v3_small"])]


def test_the_test_of_densenet_on_the_page_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page_backbone("densenet121", tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    names: dict[str, Callable[[], None]] = {}
    try:
        exec(on_page("from densenet121 import"), names)
        names["test_features_equal_those_of_torchvision"]()
    finally:
        sys.modules.pop("densenet121", None)


def test_a_transition_leaves_an_eighth_of_the_numbers(tmp_path: Path) -> None:
    entry = page_backbone("densenet121", tmp_path)
    chain: Any = build_stages(entry, pretrained=False).eval()
    x = chain[0](torch.zeros(1, 3, 64, 64))
    block = chain[1][0](x)
    assert block.shape[1] > x.shape[1]
    assert chain[1][1](block).numel() * 8 == block.numel()


def test_a_single_stage_trains_completely_or_not_at_all(tmp_path: Path) -> None:
    entry = page_backbone("two_branches", tmp_path)
    profile = profile_stages(entry, build_stages(entry, pretrained=False), 32)
    assert profile.depths(float("inf")) == (0, 1)
    assert profile.cpu_depths(32) == (0,)


def test_a_timm_model_from_scratch_trains_all_stages_at_the_size_stated(tmp_path: Path) -> None:
    entry = page_backbone("timm_scratch:test_resnet", tmp_path)
    registry = discover([tmp_path])
    assert all(one.name != "timm_scratch" for one in default_backbones(registry, 32))
    for pixels, flags in ((64, {}), (96, {"pixels": [96]})):
        settings = read_settings(None, {"backbone": [entry.name], **flags})
        (one,) = select_backbones(settings, registry, None, "cpu", 224, lambda _: None).candidates
        assert (one.n_stages, one.depths, one.cuts) == (1, (1,), ())
        assert one.options.pixels == (pixels,)
