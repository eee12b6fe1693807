"""Fetch the weights of backbones beforehand, for a machine or a time without a network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from autotune.backbones.spec import Backbone
from autotune.backbones.weights import find_weights, load_or_download, weights_file_name
from autotune.files import write_whole


@dataclass(frozen=True)
class Fetched:
    """Weights on this machine. was_installed: before they were asked for. file: the copy that was asked for, if any."""

    backbone: Backbone
    was_installed: bool
    file: Path | None


def fetch_weights(backbone: Backbone, folder: Path | None, say: Callable[[str], None]) -> Fetched:
    """Download a backbone's weights unless they are installed.

    folder: also write them there, as NAME.safetensors for `--weights DIR` on another machine. Raises WeightsError.
    """
    import safetensors.torch

    found = find_weights(backbone)
    chain = load_or_download(backbone, found, say)
    if folder is None:
        return Fetched(backbone, found.installed, None)
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{weights_file_name(backbone)}.safetensors"
    write_whole(file, safetensors.torch.save({name: one.contiguous() for name, one in chain.state_dict().items()}))
    return Fetched(backbone, found.installed, file)
