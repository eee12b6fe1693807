"""VGG16: 14.7 M parameters without its top, pooled to 512 features (Simonyan & Zisserman 2014); from torchvision."""

from torch import nn
from torchvision.models import vgg16 as tv

from autotune import backbone


@backbone(
    pixels=224,
    features=512,
    weights="https://download.pytorch.org/models/vgg16-397923af.pth",
    megabytes=528,
    licence="BSD-3-Clause",
)
def vgg16(pretrained: bool) -> nn.Sequential:
    layers = tv(weights="IMAGENET1K_V1" if pretrained else None).features
    last = nn.Sequential(*layers[24:], nn.AdaptiveAvgPool2d(1), nn.Flatten(1))
    return nn.Sequential(layers[:5], layers[5:10], layers[10:17], layers[17:24], last)
