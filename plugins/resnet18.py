"""ResNet-18: 11.2 M parameters without its classifier (He et al. 2015); torchvision's ImageNet-1k V1 weights."""

from torch import nn
from torchvision.models import resnet18 as tv

from autotune import backbone


@backbone(
    pixels=224,
    features=512,
    weights="https://download.pytorch.org/models/resnet18-f37072fd.pth",
    megabytes=45,
    licence="BSD-3-Clause",
)
def resnet18(pretrained: bool) -> nn.Sequential:
    net = tv(weights="IMAGENET1K_V1" if pretrained else None)
    stem = nn.Sequential(net.conv1, net.bn1, net.relu, net.maxpool)
    last = nn.Sequential(net.layer4, net.avgpool, nn.Flatten(1))
    return nn.Sequential(stem, net.layer1, net.layer2, net.layer3, last)
