"""ConvNeXt-Tiny: 27.8 M parameters without its classifier (Liu et al. 2022); torchvision's ImageNet-1k V1 weights."""

from torch import nn
from torchvision.models import convnext_tiny as tv

from autotune import backbone


@backbone(
    pixels=224,
    features=768,
    weights="https://download.pytorch.org/models/convnext_tiny-983f1562.pth",
    megabytes=109,
    licence="BSD-3-Clause",
)
def convnext_tiny(pretrained: bool) -> nn.Sequential:
    net = tv(weights="IMAGENET1K_V1" if pretrained else None)
    stem, first, *rest = net.features  # rest: downsampling layers and blocks, alternating
    norm = net.classifier[0]  # the LayerNorm in front of the classifier
    last = nn.Sequential(*rest[4:], net.avgpool, norm, nn.Flatten(1))
    return nn.Sequential(stem, first, nn.Sequential(*rest[:2]), nn.Sequential(*rest[2:4]), last)
