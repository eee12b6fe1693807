"""ShuffleNetV2 x0.5: 0.3 M parameters without its classifier (Ma et al. 2018); torchvision's ImageNet-1k V1 weights."""

# Why add this network: without its classifier it needs 39 M multiply-adds per picture, fewer than any bundled backbone
# with pretrained weights (MobileNetV3-Small needs 55 M), so it suits slow computers. The price is accuracy: torchvision
# states 60.6 % on ImageNet, and 67.7 % for MobileNetV3-Small. Check it, then use it:
#
#     autotune plugins check shufflenet_v2_x0_5 --plugins examples/plugins
#     autotune search photos/ --plugins examples/plugins --backbone shufflenet_v2_x0_5

from torch import nn
from torchvision.models import shufflenet_v2_x0_5 as tv

from autotune import backbone


# The values are literals, because autotune reads them without running this file. The URL and the size are those of
# torchvision.models.ShuffleNet_V2_X0_5_Weights.IMAGENET1K_V1; mean and std are ImageNet's, which is the default.
@backbone(
    pixels=224,
    features=1024,
    weights="https://download.pytorch.org/models/shufflenetv2_x0.5-f707e7126e.pth",
    megabytes=5,
    licence="BSD-3-Clause",
)
def shufflenet_v2_x0_5(pretrained: bool) -> nn.Sequential:
    net = tv(weights="IMAGENET1K_V1" if pretrained else None)
    # The max pooling has no parameters, so it is part of the first stage.
    stem = nn.Sequential(net.conv1, net.maxpool)
    # torchvision's forward() averages over height and width in a function call, x.mean([2, 3]). Here that is a layer
    # of the last stage. The classifier, net.fc, is left out: autotune adds a head for your classes.
    last = nn.Sequential(net.conv5, nn.AdaptiveAvgPool2d(1), nn.Flatten(1))
    return nn.Sequential(stem, net.stage2, net.stage3, net.stage4, last)
