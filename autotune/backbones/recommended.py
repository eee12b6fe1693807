"""Backbones worth trying on a CPU and on a GPU if weights can be downloaded; all with licences without conditions.

The lists are experimental: they follow published accuracies and speeds, not measurements with autotune.
"""

from __future__ import annotations

from collections.abc import Iterable

RECOMMENDED = "recommended"
ON_CPU = (
    "efficientnet_lite0",  # needs no download
    "timm:mobilenetv4_conv_small.e2400_r224_in1k",
    "timm:hgnetv2_b0.ssld_stage2_ft_in1k",
    "timm:hgnetv2_b2.ssld_stage2_ft_in1k",
    "timm:hgnetv2_b4.ssld_stage2_ft_in1k",
    "timm:mobilenetv3_large_100.miil_in21k_ft_in1k",
    "timm:levit_256.fb_dist_in1k",
    "timm:tiny_vit_11m_224.dist_in22k_ft_in1k",
    "timm:mobilenetv4_hybrid_medium.e200_r256_in12k_ft_in1k",
)
ON_GPU = (
    "efficientnet_lite0",
    "timm:convnext_tiny.in12k_ft_in1k",
    "timm:convnext_small.in12k_ft_in1k",
    "timm:tiny_vit_21m_224.dist_in22k_ft_in1k",
    "timm:caformer_s18.sail_in22k_ft_in1k",
    "timm:vit_small_patch14_reg4_dinov2.lvd142m@224",
    "timm:vit_base_patch14_reg4_dinov2.lvd142m@224",
    "timm:vit_base_patch16_siglip_224.v2_webli",
)
LISTS = {f"{RECOMMENDED}-cpu": ON_CPU, f"{RECOMMENDED}-gpu": ON_GPU}


def with_recommended(names: Iterable[str], device: str) -> list[str]:
    """Replace `recommended` by the list for a device, and `recommended-cpu` and `recommended-gpu` by theirs.

    Each name is kept once. device: a torch device type, with or without an index.
    """
    lists = {**LISTS, RECOMMENDED: ON_CPU if device == "cpu" else ON_GPU}
    return list(dict.fromkeys(name for given in names for name in lists.get(given, (given,))))
