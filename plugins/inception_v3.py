"""Inception v3: 21.8 M parameters without its classifiers (Szegedy et al. 2015); torchvision's ImageNet-1k weights."""

from torch import nn
from torchvision.models import inception_v3 as tv

from autotune import backbone


@backbone(
    pixels=299,
    features=2048,
    mean=(0.5, 0.5, 0.5),  # equivalent to torchvision's transform_input=True with ImageNet's mean and std
    std=(0.5, 0.5, 0.5),
    weights="https://download.pytorch.org/models/inception_v3_google-0cc3c7bd.pth",
    megabytes=104,
    licence="BSD-3-Clause",
)
def inception_v3(pretrained: bool) -> nn.Sequential:
    net = tv(weights="IMAGENET1K_V1") if pretrained else tv(init_weights=False)
    return nn.Sequential(
        net.Conv2d_1a_3x3,
        net.Conv2d_2a_3x3,
        nn.Sequential(net.Conv2d_2b_3x3, net.maxpool1),
        net.Conv2d_3b_1x1,
        nn.Sequential(net.Conv2d_4a_3x3, net.maxpool2),
        *(net.Mixed_5b, net.Mixed_5c, net.Mixed_5d),
        *(net.Mixed_6a, net.Mixed_6b, net.Mixed_6c, net.Mixed_6d, net.Mixed_6e),
        *(net.Mixed_7a, net.Mixed_7b),
        nn.Sequential(net.Mixed_7c, net.avgpool, nn.Flatten(1)),
    )
