"""timm: any of timm's models, as timm:NAME; cut into stages where a chain of its parts does what the model does."""

from functools import lru_cache
from typing import Any

import torch
from timm import create_model, get_pretrained_cfg, is_model, list_models
from torch import Tensor, nn

from autotune import backbone


@backbone(pixels=224, interpolation="bicubic")
def timm(pretrained: bool, variant: str) -> nn.Sequential:
    model = create_model(variant, pretrained=pretrained, num_classes=0).eval()
    for parts in (children(model), transformer(model)):
        chain = joined(parts)
        if len(chain) and does_the_same(chain, model):
            return chain
    return nn.Sequential(model)


@lru_cache
def traits(variant: str) -> dict[str, Any]:
    """What timm knows of a model. Raises ValueError where there is none of that name."""
    name = variant.partition(".")[0]
    if not is_model(name):
        raise ValueError(f"timm has no model {name!r}.", near(name))
    config = get_pretrained_cfg(variant)
    if config is None:
        raise ValueError(f"timm has no weights {variant.partition('.')[2]!r} of {name}.", f"Leave it at timm:{name}.")
    found = {"pixels": config.input_size[-1], "mean": config.mean, "std": config.std, "licence": config.license}
    found |= {"interpolation": "bilinear" if config.interpolation == "bilinear" else "bicubic"}
    found |= {"fixed_pixels": bool(config.fixed_input_size)}
    if config.hf_hub_id:
        return {**found, "weights": f"hub:{config.hf_hub_id}/model.safetensors", "megabytes": megabytes(variant)}
    return {**found, "weights": config.url or None, "megabytes": megabytes(variant)}


def near(name: str) -> str:
    from difflib import get_close_matches

    found = get_close_matches(name, list_models(), n=1)
    return f"Did you mean 'timm:{found[0]}'?" if found else "See timm.list_models() for their names."


def megabytes(variant: str) -> int:
    """Of its weights, counted without making them."""
    with torch.device("meta"):
        return round(sum(p.numel() for p in create_model(variant).parameters()) * 4 / 1e6)


def children(model: nn.Module) -> list[nn.Module]:
    """The model's parts in their order, containers opened."""
    found: list[nn.Module] = []
    for child in model.children():
        found += child if isinstance(child, (nn.Sequential, nn.ModuleList)) else [child]
    return found


def transformer(model: nn.Module) -> list[nn.Module]:
    """A vision transformer's, whose tokens and pooling are its own functions and not modules."""
    if not hasattr(model, "_pos_embed") or not hasattr(model, "forward_head"):
        return []
    front = [name for name in ("patch_embed", "pos_drop", "patch_drop", "norm_pre") if hasattr(model, name)]
    rear = [name for name in ("norm", "attn_pool", "fc_norm", "head_drop", "head") if hasattr(model, name)]
    return [Part(model, front, embed, has_own=True), *model.blocks, Part(model, rear, pool, has_own=False)]


class Part(nn.Module):
    """Some of a model's modules, its own parameters or none, and one function that it does with them."""

    def __init__(self, model: nn.Module, names: list[str], work: Any, has_own: bool) -> None:
        super().__init__()
        self.part = model.__class__.__new__(model.__class__)
        self.part.__dict__.update(model.__dict__)
        self.part._parameters = model._parameters if has_own else {}
        self.part._modules = {name: getattr(model, name) for name in names}
        self.work = work

    def forward(self, x: Tensor) -> Tensor:
        return self.work(self.part, x)


def embed(model: Any, x: Tensor) -> Tensor:
    x = model._pos_embed(model.patch_embed(x))
    return model.norm_pre(model.patch_drop(x))


def pool(model: Any, x: Tensor) -> Tensor:
    return model.forward_head(model.norm(x))


def joined(parts: list[nn.Module]) -> nn.Sequential:
    """Stages of parts: one without parameters goes with what comes before it; a norm behind a convolution, too."""
    stages: list[list[nn.Module]] = []
    for part in parts:
        starts = any(True for _ in part.parameters()) and "norm" not in type(part).__name__.lower()
        if starts and (not stages or has_parameters(stages[-1])):
            stages.append([part])
        elif stages:
            stages[-1].append(part)
        else:
            stages = [[part]]
    return nn.Sequential(*(stage[0] if len(stage) == 1 else nn.Sequential(*stage) for stage in stages))


def has_parameters(parts: list[nn.Module]) -> bool:
    return any(True for part in parts for _ in part.parameters())


@torch.no_grad()
def does_the_same(chain: nn.Sequential, model: nn.Module) -> bool:
    """Whether a chain gives the model's own features, on noise of the size that it is made for."""
    x = torch.randn(2, *model.pretrained_cfg["input_size"], generator=torch.Generator().manual_seed(0))
    wanted = model(x)
    try:
        found = chain.eval()(x)
    except (RuntimeError, TypeError, ValueError, AttributeError):  # its parts are not used one after another
        return False
    return found.shape == wanted.shape and torch.allclose(found, wanted, rtol=1e-4, atol=1e-5)
