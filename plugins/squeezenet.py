"""SqueezeNet 1.1: 0.7 M parameters without its classifier, 1.2 M with it (Iandola et al. 2016); from torchvision."""

from torch import nn
from torchvision.models import squeezenet1_1 as tv

from autotune import backbone


@backbone(
    pixels=224,
    features=512,
    weights="https://download.pytorch.org/models/squeezenet1_1-b8a52dc0.pth",
    megabytes=5,
    licence="BSD-3-Clause",
)
def squeezenet(pretrained: bool) -> nn.Sequential:
    parts = tv(weights="IMAGENET1K_V1" if pretrained else None).features
    last = nn.Sequential(parts[12], nn.AdaptiveAvgPool2d(1), nn.Flatten(1))
    return nn.Sequential(parts[:3], parts[3], parts[4:6], parts[6], parts[7:9], parts[9], parts[10], parts[11], last)
