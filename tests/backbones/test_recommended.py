import re
from typing import Any

import pytest
import torch

from autotune.backbones.recommended import LISTS, ON_CPU, ON_GPU, with_recommended
from autotune.backbones.registry import build_stages, discover
from autotune.backbones.weights import FREE
from autotune.errors import PluginError

FOUND = discover()
NAMES = sorted({name for names in LISTS.values() for name in names})
LARGE = re.compile("base|siglip|convnext_small")  # models that take ten seconds each
TIMM = [name for name in NAMES if name.startswith("timm:")]


@pytest.mark.parametrize(("device", "names"), [("cpu", ON_CPU), ("cuda:1", ON_GPU), ("mps", ON_GPU)])
def test_recommended_depends_on_the_device(device: str, names: tuple[str, ...]) -> None:
    assert with_recommended(["recommended"], device) == list(names)
    assert with_recommended(["recommended-gpu"], device) == list(ON_GPU)


def test_each_name_is_kept_once_in_the_order_given() -> None:
    assert with_recommended(["resnet18", ON_CPU[1], "recommended"], "cpu") == [
        "resnet18", ON_CPU[1], ON_CPU[0], *ON_CPU[2:]
    ]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_licences_have_no_conditions(name: str) -> None:
    licence = FOUND.find(name).traits.licence
    assert licence
    assert licence.lower() in FREE


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [pytest.param(one, marks=pytest.mark.in_make_faults if LARGE.search(one) else ()) for one in TIMM]
)
def test_the_stages_compute_the_outputs_of_the_model(name: str) -> None:
    import timm

    variant, _, pixels = name.removeprefix("timm:").partition("@")
    size: dict[str, Any] = {"img_size": int(pixels)} if pixels else {}
    traits = FOUND.find(name).traits
    assert traits.pixels == int(pixels or traits.pixels)
    torch.manual_seed(0)
    chain = build_stages(FOUND.find(name), pretrained=False).eval()
    torch.manual_seed(0)
    net = timm.create_model(variant, num_classes=0, **size).eval()
    x = torch.randn(1, 3, traits.pixels, traits.pixels)
    with torch.no_grad():
        assert torch.allclose(chain(x), net(x), rtol=1e-3, atol=1e-5)
    assert len(chain) >= 4
    assert sum(p.numel() for p in chain.parameters()) == sum(p.numel() for p in net.parameters())


@pytest.mark.parametrize("variant", ["resnet18@96", "vit_tiny_patch16_224@", "vit_tiny_patch16_224@big"])
def test_only_a_model_of_a_fixed_size_has_another_in_its_name(variant: str) -> None:
    with pytest.raises(PluginError, match="is no size of timm:"):
        FOUND.find(f"timm:{variant}")
