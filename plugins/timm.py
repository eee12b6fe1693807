"""timm: any model of the timm library (Wightman 2019) with its weights, named timm:NAME, such as timm:resnet26d.

timm:NAME@PIXELS builds a model of a fixed input size, such as a vision transformer, for another size.
"""

import copy
import difflib
from types import MethodType
from typing import Any

import huggingface_hub as hub
import torch
from timm import create_model, list_models, list_pretrained
from timm.models import get_pretrained_cfg, is_model
from timm.models.levit import Levit
from torch import Tensor, nn

from autotune import backbone

FILE = "model.safetensors"
SECONDS = 10  # timeout of the first request to the Hub; without a network its library would retry for a minute
CONTAINERS = ("blocks", "features", "layers", "stages")  # timm's names for sequences of modules in a network


@backbone(pixels=224)
def timm(pretrained: bool, variant: str) -> nn.Sequential:
    name, _, pixels = variant.partition("@")
    size: dict[str, Any] = {"img_size": int(pixels)} if pixels else {}
    net = create_model(name, num_classes=0, **size, **(_weights(name) if pretrained else {})).eval()
    stages = _stages(net)
    same = _same(stages, net, traits(variant)["pixels"])
    return (stages if same else nn.Sequential(net)).train()


def traits(variant: str) -> dict[str, Any]:
    """Return a model's traits from its timm configuration. Raises ValueError if timm has no such model."""
    name, at, pixels = variant.partition("@")
    config = _configuration(name)
    channels, height, width = config.input_size
    if (channels, height) != (3, width):
        raise ValueError(f"timm:{name} has inputs of size {config.input_size}.", "Use a model for square RGB inputs.")
    if at and not (pixels.isdecimal() and config.fixed_input_size):
        fix = f"Write it as 'timm:{name}', and set its size with --pixels if it is to be another."
        raise ValueError(f"{pixels!r} is no size of timm:{name}.", fix)
    with torch.device("meta"):  # counts parameters without allocating them
        n_numbers = sum(p.numel() for p in create_model(name).parameters())
    return {
        "pixels": int(pixels) if at else height,
        "mean": tuple(config.mean),
        "std": tuple(config.std),
        "interpolation": "bilinear" if config.interpolation == "bilinear" else "bicubic",
        "fixed_pixels": config.fixed_input_size,
        "weights": f"hub:{config.hf_hub_id}/{FILE}" if config.hf_hub_id else config.url or None,
        "megabytes": round(4 * n_numbers / 1e6),
        "licence": config.license,
    }


def _configuration(name: str) -> Any:
    """Return timm's configuration of a model. Raises ValueError if timm has no such model."""
    try:
        config = get_pretrained_cfg(name) if is_model(name) else None
    except RuntimeError:  # an unknown tag (the part after the dot)
        config = None
    if config is None:
        names = list_pretrained() if "." in name else list_models()
        near = difflib.get_close_matches(name, names, n=1)
        fix = f"Did you mean 'timm:{near[0]}'?" if near else "Run timm.list_models() to list them."
        raise ValueError(f"timm has no model {name!r}.", fix)
    return config


def _weights(name: str) -> dict[str, Any]:
    """Return create_model's arguments for a model's weights: a file in the Hub's cache, downloaded if missing."""
    config: Any = get_pretrained_cfg(name)
    repository = config.hf_hub_id
    if not repository:
        return {"pretrained": True}
    file = hub.try_to_load_from_cache(repository, FILE)
    if not isinstance(file, str):
        hub.get_session().head(hub.hf_hub_url(repository, FILE), timeout=SECONDS)
        file = hub.hf_hub_download(repository, FILE)
    return {"pretrained": True, "pretrained_cfg_overlay": {"file": file, "custom_load": False}}


@torch.no_grad()
def _same(stages: nn.Sequential, net: nn.Module, pixels: int) -> bool:
    """Return whether a chain has all parameters of a network and computes the same outputs."""
    if {id(p) for p in stages.parameters()} != {id(p) for p in net.parameters()}:
        return False
    x = torch.randn(1, 3, pixels, pixels, generator=torch.Generator().manual_seed(0))
    try:
        return torch.allclose(stages(x), net(x), rtol=1e-4, atol=1e-6)
    except (RuntimeError, TypeError, ValueError, AttributeError):  # the modules do not form a chain
        return False


def _stages(net: nn.Module) -> nn.Sequential:
    """Return a network's modules in order, as stages. A stage starts with a module that has kernels or matrices;
    norms, activations and pooling belong to the previous stage. Tensors keep timm's names.
    """
    if hasattr(net, "_pos_embed") and hasattr(net, "blocks"):
        return _transformer(net)
    groups: list[list[tuple[str, nn.Module]]] = []
    pooled = False
    for name, part in _parts(net):
        starts = not groups or (
            _has_matrices(part) and any(_has_matrices(other) for _, other in groups[-1]) and not pooled
        )
        groups = [*groups, [(name, part)]] if starts else [*groups[:-1], [*groups[-1], (name, part)]]
        pooled = pooled or name == "global_pool"
    return nn.Sequential(*(_named(group) for group in groups))


def _parts(net: nn.Module) -> list[tuple[str, nn.Module]]:
    parts = []
    for name, part in net.named_children():
        if name in CONTAINERS and isinstance(part, nn.Sequential | nn.ModuleList):
            parts += [(f"{name}.{number}", inner) for number, inner in part.named_children()]
        else:
            parts.append((name, part))
    if isinstance(net, Levit) and not net.use_conv:  # computes these two steps without a module
        last = max(number for number, (name, _) in enumerate(parts) if name.startswith("stages."))
        parts.insert(last + 1, ("mean", _MeanToken()))
        parts.insert(1, ("tokens", _Tokens()))
    return parts


class _Tokens(nn.Module):
    """Feature maps (N, C, H, W) to tokens (N, H * W, C)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(2).transpose(1, 2)


class _MeanToken(nn.Module):
    """Tokens (N, T, C) to their mean (N, C)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(1)


def _has_matrices(part: nn.Module) -> bool:
    return any(p.dim() > 1 for p in part.parameters())


def _named(parts: list[tuple[str, nn.Module]]) -> nn.Sequential:
    """Return modules in order, with the names from their network."""
    stage = nn.Sequential()
    for path, part in parts:
        outer, _, name = path.rpartition(".")
        if outer and outer not in dict(stage.named_children()):
            stage.add_module(outer, nn.Sequential())
        (stage.get_submodule(outer) if outer else stage).add_module(name, part)
    return stage


def _transformer(net: Any) -> nn.Sequential:
    """Return the stages of a vision transformer: the network without blocks, as no single module computes the tokens;
    the blocks; the last block with the head.
    """
    *middle, end = net.blocks.named_children()
    before = dict(net.named_children())
    after = {name: before.pop(name) for name in [*before][[*before].index("blocks") :]}
    first = _only(
        net, {**before, "blocks": nn.Identity(), "norm": nn.Identity()}, dict(net.named_parameters(recurse=False))
    )
    first.forward = first.forward_features
    last = _only(net, {**after, "blocks": nn.Sequential()}, {})
    last.blocks.add_module(*end)
    last.forward = MethodType(_finish, last)
    return nn.Sequential(first, *(_named([(f"blocks.{number}", block)]) for number, block in middle), last)


def _only(net: nn.Module, children: dict[str, nn.Module], parameters: dict[str, nn.Parameter]) -> Any:
    """Return a copy of a network with only these modules and parameters, which are shared."""
    one: Any = copy.copy(net)
    one._modules, one._parameters = children, parameters
    return one


def _finish(net: Any, x: Tensor) -> Tensor:
    out: Tensor = net.forward_head(net.norm(net.blocks(x)))
    return out
