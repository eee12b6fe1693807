"""Pretrained weights: where a backbone's lie on this machine, and how they get into its stages."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from autotune.backbones.registry import build_stages
from autotune.backbones.spec import Backbone
from autotune.errors import WeightsError

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class WeightsSource:
    """Where a backbone's weights are. file: one from --weights DIR, which autotune loads; else the plugin does.

    fetched: the plugin gets them where they are not at hand, so that naming the backbone suffices.
    """

    at_hand: bool
    reason: str
    file: str | None = None
    fetched: bool = False


def find_weights(entry: Backbone, folder: Path | None = None) -> WeightsSource:
    """Look in the user's folder, then in an installed package, then among earlier downloads. Imports nothing heavy."""
    if folder and not folder.is_dir():
        raise WeightsError(
            f"There is no folder {folder}.", "Name a folder of NAME.safetensors or NAME.pth: --weights DIR"
        )
    if entry.traits.from_scratch:
        return WeightsSource(True, "trains from scratch")
    for suffix in (".safetensors", ".pth"):
        file = folder / f"{weights_file_name(entry)}{suffix}" if folder else None
        if file and file.is_file():
            return WeightsSource(True, f"in {folder}", str(file))
    source = entry.traits.weights
    if entry.takes_variant and ":" not in entry.name:
        return WeightsSource(False, f"each variant has its own: {entry.name}:VARIANT")
    if source is None:
        return WeightsSource(
            False, f"the plugin names none; put {weights_file_name(entry)}.safetensors into --weights DIR"
        )
    if source.startswith("package:"):
        package, _, inner = source.removeprefix("package:").partition("/")
        spec = find_spec(package)
        there = spec and any(Path(place, inner).is_file() for place in spec.submodule_search_locations or ())
        return WeightsSource(bool(there), f"in package {package}" if there else f"package {package} is not installed")
    if source.startswith("hub:"):
        return _of_hub(source.removeprefix("hub:"), entry)
    if (_downloads() / source.rpartition("/")[2]).is_file():
        return WeightsSource(True, "downloaded before")
    return _to_download(entry)


def weights_file_name(entry: Backbone) -> str:
    """What its file in --weights DIR is called, without the ending."""
    return entry.name.replace(":", "-")


def _to_download(entry: Backbone) -> WeightsSource:
    size = f"{entry.traits.megabytes or '?'} MB"
    return WeightsSource(False, f"would download {size}; name it in --backbones to allow that", fetched=True)


def _of_hub(source: str, entry: Backbone) -> WeightsSource:
    """Whether a file of the Hugging Face hub was downloaded before."""
    from huggingface_hub import try_to_load_from_cache

    owner, repository, file = source.split("/", 2)
    is_there = isinstance(try_to_load_from_cache(f"{owner}/{repository}", file), str)
    return WeightsSource(True, "downloaded before") if is_there else _to_download(entry)


def load_stages(entry: Backbone, weights: WeightsSource, pretrained: bool = True) -> nn.Sequential:
    """The backbone's chain of stages with its pretrained weights, or with fresh ones.

    Raises WeightsError where the user's file does not fit, PluginError where the plugin fails.
    """
    if entry.traits.from_scratch or not pretrained:
        return build_stages(entry, pretrained=False)
    if weights.file is None:
        return build_stages(entry, pretrained=True)
    chain = build_stages(entry, pretrained=False)
    _fill(chain, read_tensors(weights.file), weights.file)
    return chain


def read_tensors(file: str) -> dict[str, Tensor]:
    """A file of tensors. A .pth is read with weights_only=True: it may hold no code. Raises WeightsError."""
    import safetensors.torch
    import torch

    try:
        if file.endswith(".safetensors"):
            return safetensors.torch.load_file(file)
        state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # each format has errors of its own, none of them shared
        problem = str(error).partition("\n")[0]
        raise WeightsError(
            f"{file} cannot be read: {problem}", "Save its state_dict again, as .safetensors."
        ) from error
    if not isinstance(state, dict):
        raise WeightsError(f"{file} holds no state_dict.", "Save the network's state_dict(), nothing around it.")
    return {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}


def stages_digest(chain: nn.Sequential) -> str:
    """A name for what a chain of stages computes: its tensors and its printed structure, hashed."""
    sum_ = hashlib.blake2b(repr(chain).encode(), digest_size=12)
    for name, value in chain.state_dict().items():
        sum_.update(name.encode())
        sum_.update(value.detach().cpu().contiguous().numpy().tobytes())
    return sum_.hexdigest()


def _fill(chain: nn.Sequential, state: dict[str, Tensor], file: str) -> None:
    """Copy tensors by name, with the stage's number or without, for a stage may keep its library's names; else, from a
    .pth, by order: a library's own has those of the stages first.
    """
    own, given = _counted(chain.state_dict()), _counted(state)
    by_name = {name: given[name] for name in own if name in given}
    bare = {name: given[rest] for name in own if (rest := name.partition(".")[2]) in given}
    matched = max(by_name, bare, key=len)
    if file.endswith(".pth") and len(matched) < len(own):  # .safetensors keeps no order
        matched = dict(zip(own, given.values(), strict=False))
    if len(matched) < len(own):
        raise WeightsError(
            f"{file} has {len(given)} tensors, {len(matched)} of the {len(own)} that the backbone needs.",
            "Use the weights of this very network; a library's own state_dict, whose names differ, as .pth.",
        )
    for name, value in matched.items():
        if value.shape != own[name].shape:
            raise WeightsError(
                f"{file} does not fit: {name} is {tuple(own[name].shape)}, the file has {tuple(value.shape)}.",
                "Use the weights of this very network.",
            )
    chain.load_state_dict(matched, strict=False)


def _counted(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """All tensors but BatchNorm's step counters, which old checkpoints lack and evaluation never reads, and those of
    an auxiliary head (Inception's), which no chain of stages has.
    """
    left_out = (".num_batches_tracked", "AuxLogits.")
    return {name: value for name, value in state.items() if not name.endswith(left_out[0]) and left_out[1] not in name}


def _downloads() -> Path:
    """Where torch.hub keeps what it downloads, by its own rules but without importing torch."""
    cache = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    home = os.environ.get("TORCH_HOME", os.path.join(cache, "torch"))
    return Path(home).expanduser() / "hub" / "checkpoints"
