"""ResNet: residual networks (He et al. 2015); torchvision's ImageNet-1k weights."""

from torch import nn
from torchvision import models

from autotune import backbone


@backbone(
    pixels=224,
    features=512,
    weights="https://download.pytorch.org/models/resnet18-f37072fd.pth",
    megabytes=45,
    licence="BSD-3-Clause",
)
def resnet18(pretrained: bool) -> nn.Sequential:
    """ResNet-18: 11.2 M parameters without its classifier (He et al. 2015); torchvision's ImageNet-1k V1 weights."""
    return stages(models.resnet18(weights="IMAGENET1K_V1" if pretrained else None))


@backbone(
    pixels=224,
    features=2048,
    weights="https://download.pytorch.org/models/resnet50-11ad3fa6.pth",
    megabytes=98,
    licence="BSD-3-Clause",
)
def resnet50(pretrained: bool) -> nn.Sequential:
    """ResNet-50: 23.5 M parameters without its classifier (He et al. 2015); torchvision's ImageNet-1k V2 weights."""
    return stages(models.resnet50(weights="IMAGENET1K_V2" if pretrained else None))


def stages(net: models.ResNet) -> nn.Sequential:
    stem = nn.Sequential(net.conv1, net.bn1, net.relu, net.maxpool)
    last = nn.Sequential(net.layer4, net.avgpool, nn.Flatten(1))
    return nn.Sequential(stem, net.layer1, net.layer2, net.layer3, last)
