"""MobileNet v1 with ELU: a network for phones (Howard et al. 2017), as mobilenet_v1:WIDTH, trained from scratch.

WIDTH multiplies the channels of all layers: mobilenet_v1:0.5 has 0.8 M parameters without its classifier.
"""

from itertools import pairwise
from typing import Any

from torch import nn

from autotune import backbone

STEM = 32  # channels
# Channels and stride of each block.
BLOCKS = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *((512, 1),) * 5, (1024, 2), (1024, 1))


@backbone(pixels=224, from_scratch=True)
def mobilenet_v1(pretrained: bool, variant: str) -> nn.Sequential:
    """MobileNet v1: depthwise separable convolutions with ELU and a width multiplier (Howard et al. 2017)."""
    widths = [int(STEM * float(variant)), *(int(wide * float(variant)) for wide, _ in BLOCKS)]
    stem = _convolution(3, widths[0], kernel=3, stride=2)
    blocks = [
        nn.Sequential(
            *_convolution(wide_in, wide_in, kernel=3, stride=stride, groups=wide_in),
            *_convolution(wide_in, wide_out),
        )
        for (wide_in, wide_out), (_, stride) in zip(pairwise(widths), BLOCKS, strict=True)
    ]
    last = nn.Sequential(*blocks.pop(), nn.AdaptiveAvgPool2d(1), nn.Flatten(1))
    return nn.Sequential(stem, *blocks, last)


def traits(variant: str) -> dict[str, Any]:
    """Return the traits of a width. Raises ValueError if it is none."""
    try:
        width = float(variant)
    except ValueError:
        width = 0.0
    if not 0.1 <= width <= 1:
        raise ValueError(f"{variant!r} is no width of mobilenet_v1.", "Use 0.25, 0.5, 0.75 or 1.0, for example.")
    return {"features": int(BLOCKS[-1][0] * width)}


def _convolution(wide_in: int, wide_out: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(wide_in, wide_out, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(wide_out),
        nn.ELU(inplace=True),
    )
