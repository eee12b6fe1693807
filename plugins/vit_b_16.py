"""ViT-B/16: 85.8 M parameters without its classifier (Dosovitskiy et al. 2020); torchvision's ImageNet-1k weights."""

import torch
from torch import Tensor, nn
from torchvision.models import VisionTransformer
from torchvision.models import vit_b_16 as tv

from autotune import backbone


@backbone(
    pixels=224,
    features=768,
    fixed_pixels=True,  # the size of its position embedding
    weights="https://download.pytorch.org/models/vit_b_16-c867db91.pth",
    megabytes=330,
    licence="BSD-3-Clause",
)
def vit_b_16(pretrained: bool) -> nn.Sequential:
    net = tv(weights="IMAGENET1K_V1" if pretrained else None)
    layers = list(net.encoder.layers)
    return nn.Sequential(Tokens(net), *layers[:-1], nn.Sequential(layers[-1], net.encoder.ln, First()))


class Tokens(nn.Module):
    """From pixels (N, 3, 224, 224) to the class token and 196 patch tokens with position embeddings (N, 197, 768)."""

    def __init__(self, net: VisionTransformer) -> None:
        super().__init__()
        self.class_token = net.class_token
        self.conv_proj = net.conv_proj
        self.position = Position(net.encoder.pos_embedding)
        self.dropout = net.encoder.dropout

    def forward(self, x: Tensor) -> Tensor:
        patches = self.conv_proj(x).flatten(2).transpose(1, 2)  # (N, 196, 768)
        token = self.class_token.expand(len(x), -1, -1)
        out: Tensor = self.dropout(self.position(torch.cat([token, patches], 1)))
        return out


class Position(nn.Module):
    """Adds the position embedding. A separate module keeps the tensors in the order of torchvision's file."""

    def __init__(self, embedding: nn.Parameter) -> None:
        super().__init__()
        self.embedding = embedding

    def forward(self, x: Tensor) -> Tensor:
        return x + self.embedding


class First(nn.Module):
    """Selects the class token (N, F) of tokens (N, T, F)."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, 0]
