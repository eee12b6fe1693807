"""MobileNetV2: 2.2 M parameters without its classifier (Sandler et al. 2018); torchvision's ImageNet-1k V2 weights."""

from torch import nn
from torchvision.models import mobilenet_v2 as tv

from autotune import backbone


@backbone(
    pixels=224,
    features=1280,
    weights="https://download.pytorch.org/models/mobilenet_v2-7ebf99e0.pth",
    megabytes=14,
    licence="BSD-3-Clause",
)
def mobilenet_v2(pretrained: bool) -> nn.Sequential:
    net = tv(weights="IMAGENET1K_V2" if pretrained else None)
    last = nn.Sequential(net.features[-1], nn.AdaptiveAvgPool2d(1), nn.Flatten(1))
    return nn.Sequential(*net.features[:-1], last)
