"""MobileNetV3: an architecture searched for phones (Howard et al. 2019); torchvision's ImageNet-1k weights."""

from torch import nn
from torchvision import models

from autotune import backbone


@backbone(
    pixels=224,
    features=576,
    weights="https://download.pytorch.org/models/mobilenet_v3_small-047dcff4.pth",
    megabytes=10,
    licence="BSD-3-Clause",
)
def mobilenet_v3_small(pretrained: bool) -> nn.Sequential:
    """MobileNetV3-Small: 0.9 M parameters without its classifier (Howard et al. 2019); torchvision's V1 weights."""
    return stages(models.mobilenet_v3_small(weights="IMAGENET1K_V1" if pretrained else None))


@backbone(
    pixels=224,
    features=960,
    weights="https://download.pytorch.org/models/mobilenet_v3_large-5c1a4163.pth",
    megabytes=21,
    licence="BSD-3-Clause",
)
def mobilenet_v3_large(pretrained: bool) -> nn.Sequential:
    """MobileNetV3-Large: 3.0 M parameters without its classifier (Howard et al. 2019); torchvision's V2 weights."""
    return stages(models.mobilenet_v3_large(weights="IMAGENET1K_V2" if pretrained else None))


def stages(net: models.MobileNetV3) -> nn.Sequential:
    last = nn.Sequential(net.features[-1], net.avgpool, nn.Flatten(1))
    return nn.Sequential(*net.features[:-1], last)
