"""Pretrained weights: where a backbone's are on this machine, and how they are loaded into its stages."""

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
from autotune.text import first_line

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class WeightsSource:
    """Where a backbone's weights are. installed: on this machine. reason: where they are, or why they are not.

    file: one from --weights DIR, which autotune loads; None: the plugin loads them. fetched: the plugin downloads them
    where they are not at hand.
    """

    installed: bool
    reason: str
    file: str | None = None
    fetched: bool = False


def find_weights(entry: Backbone, folder: Path | None = None) -> WeightsSource:
    """Look in the user's folder, then in an installed package, then among earlier downloads. Imports no torch.

    Raises WeightsError where there is no such folder.
    """
    if folder and not folder.is_dir():
        raise WeightsError(
            f"There is no folder {folder}.", "Name a folder of NAME.safetensors or NAME.pth: --weights DIR"
        )
    if entry.traits.from_scratch:
        return WeightsSource(True, "trains from scratch")
    if folder and (file := _file_in(folder, entry)):
        return WeightsSource(True, f"in {folder}", str(file))
    if entry.takes_variant and ":" not in entry.name:
        return WeightsSource(False, f"each variant has its own: {entry.name}:VARIANT")
    source = entry.traits.weights
    if source is None:
        return WeightsSource(
            False, f"the plugin names none; put {weights_file_name(entry)}.safetensors into --weights DIR"
        )
    if source.startswith("package:"):
        return _in_package(source.removeprefix("package:"))
    is_hub = source.startswith("hub:")
    if _is_in_hub_cache(source.removeprefix("hub:")) if is_hub else _is_in_torch_cache(source):
        return WeightsSource(True, "downloaded before")
    size = f"{entry.traits.megabytes or '?'} MB"
    return WeightsSource(False, f"would download {size}; name it in --backbones to allow that", fetched=True)


def weights_file_name(entry: Backbone) -> str:
    """The name of its file in --weights DIR, without the suffix."""
    return entry.name.replace(":", "-")


def _file_in(folder: Path, entry: Backbone) -> Path | None:
    files = (folder / f"{weights_file_name(entry)}{suffix}" for suffix in (".safetensors", ".pth"))
    return next((file for file in files if file.is_file()), None)


def _in_package(source: str) -> WeightsSource:
    """Found without importing the package. source: PACKAGE/PATH."""
    package, _, inner = source.partition("/")
    spec = find_spec(package)
    places = (spec.submodule_search_locations if spec else None) or ()
    is_there = any(Path(place, inner).is_file() for place in places)
    return WeightsSource(is_there, f"in package {package}" if is_there else f"package {package} is not installed")


def _is_in_hub_cache(source: str) -> bool:
    """Whether a file of the Hugging Face Hub, OWNER/REPO/FILE, was downloaded before."""
    from huggingface_hub import try_to_load_from_cache

    owner, repository, file = source.split("/", 2)
    return isinstance(try_to_load_from_cache(f"{owner}/{repository}", file), str)


def _is_in_torch_cache(url: str) -> bool:
    """Whether torch.hub has downloaded a URL before: by its own rules, but without importing torch."""
    cache = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    home = os.environ.get("TORCH_HOME", os.path.join(cache, "torch"))
    return (Path(home).expanduser() / "hub" / "checkpoints" / url.rpartition("/")[2]).is_file()


def load_stages(entry: Backbone, weights: WeightsSource, pretrained: bool = True) -> nn.Sequential:
    """The backbone's chain of stages, with its pretrained weights or with random ones.

    Raises WeightsError where the user's file does not fit, PluginError where the plugin fails.
    """
    if entry.traits.from_scratch or not pretrained:
        return build_stages(entry, pretrained=False)
    if weights.file is None:
        return build_stages(entry, pretrained=True)
    chain = build_stages(entry, pretrained=False)
    _load_file(chain, weights.file)
    return chain


def read_tensors(file: str) -> dict[str, Tensor]:
    """The tensors in a .safetensors or .pth file, the latter read with weights_only=True. Raises WeightsError."""
    import safetensors.torch
    import torch

    try:
        if file.endswith(".safetensors"):
            return safetensors.torch.load_file(file)
        state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # each format has errors of its own, none of them shared
        raise WeightsError(
            f"{file} cannot be read: {first_line(error)}", "Save its state_dict again, as .safetensors."
        ) from error
    if not isinstance(state, dict):
        raise WeightsError(f"{file} holds no state_dict.", "Save the network's state_dict(), nothing around it.")
    return {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}


def stages_digest(chain: nn.Sequential) -> str:
    """A hash of what a chain of stages computes: of its tensors and its printed structure."""
    digest = hashlib.blake2b(repr(chain).encode(), digest_size=12)
    for name, value in chain.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _load_file(chain: nn.Sequential, file: str) -> None:
    """Copy a file's tensors into a chain. Raises WeightsError where they do not fit."""
    own, given = _matchable(chain.state_dict()), _matchable(read_tensors(file))
    matched = _match(own, given, has_order=file.endswith(".pth"))  # .safetensors keeps no order
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


def _match(own: dict[str, Tensor], given: dict[str, Tensor], has_order: bool) -> dict[str, Tensor]:
    """The given tensors under the chain's names: matched by name, with the stage's number or without, because a stage
    may keep its library's names; else by order, because a library's own file has the stages' tensors first.
    """
    by_name = {name: given[name] for name in own if name in given}
    without_stage = {name: given[rest] for name in own if (rest := name.partition(".")[2]) in given}
    matched = max(by_name, without_stage, key=len)
    if has_order and len(matched) < len(own):
        return dict(zip(own, given.values(), strict=False))
    return matched


def _matchable(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """All tensors but BatchNorm's step counters, which old checkpoints lack and evaluation never reads, and those of
    an auxiliary head (Inception's), which no chain of stages has.
    """
    return {
        name: value
        for name, value in state.items()
        if not name.endswith(".num_batches_tracked") and "AuxLogits." not in name
    }
