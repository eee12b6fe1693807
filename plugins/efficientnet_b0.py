"""EfficientNet-B0: 4.0 M parameters without its classifier (Tan & Le 2019); torchvision's ImageNet-1k V1 weights."""

from torch import nn
from torchvision.models import efficientnet_b0 as tv

from autotune import backbone


@backbone(
    pixels=224,
    features=1280,
    interpolation="bicubic",
    weights="https://download.pytorch.org/models/efficientnet_b0_rwightman-7f5810bc.pth",
    megabytes=20,
    licence="BSD-3-Clause",
)
def efficientnet_b0(pretrained: bool) -> nn.Sequential:
    net = tv(weights="IMAGENET1K_V1" if pretrained else None)
    last = nn.Sequential(net.features[-1], net.avgpool, nn.Flatten(1))
    return nn.Sequential(*net.features[:-1], last)
