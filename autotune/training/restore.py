"""Restore a finished trial's network from its checkpoint, and compute its logits for picture files."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor

from autotune.backbones.spec import Backbone
from autotune.data.catalog import Progress
from autotune.data.decode import crop_square
from autotune.data.picture import Picture, UnreadableError, pixel_digest, read_picture
from autotune.errors import DataError, StudyError
from autotune.training.batches import CLEAN_BATCH
from autotune.training.context import LoadedBackbones
from autotune.training.network import TrialNetwork, build_network
from autotune.training.params import Params

RESTORE = "Restore the file, or start a new study."


@dataclass(frozen=True)
class TrainedNetwork:
    """Complete network of a trial in float32 and evaluation mode, on a device."""

    net: TrialNetwork
    backbone: Backbone
    device: torch.device

    @property
    def pixels(self) -> int:
        return self.net.params.pixels

    @property
    def interpolation(self) -> str:
        return self.backbone.traits.interpolation

    @torch.no_grad()
    def logits(self, pictures: NDArray[np.uint8]) -> Tensor:
        """Return logits (N, C), on the CPU, for pixels (N, 3, P, P)."""
        found: Tensor = self.net([torch.from_numpy(pictures).to(self.device)])
        return found.float().cpu()

    @torch.no_grad()
    def logits_of(self, features: Tensor) -> Tensor:
        """Return logits (N, C) of features (N, F) of `picture_features`, on the CPU."""
        found: Tensor = self.net.head(features.to(self.device))
        return found.float().cpu()


def network_from_checkpoint(backbones: LoadedBackbones, params: Params, content: bytes, file: Path) -> TrainedNetwork:
    """Build a network with the weights of a checkpoint. file: its path, for errors. Raises StudyError."""
    net = build_network(backbones, params, seed=0)
    try:
        state = safetensors.torch.load(content)
    except safetensors.SafetensorError as error:
        raise StudyError(f"{file} is damaged: {error}.", RESTORE) from error
    try:
        found = net.load_state_dict(state, strict=False)
    except RuntimeError as error:  # tensors of other shapes
        raise StudyError(f"{file} does not match its backbone.", RESTORE) from error
    if found.unexpected_keys or found.missing_keys:
        raise StudyError(
            f"{file} does not match its backbone.", "Use the --plugins of the search, or start a new study."
        )
    entry = backbones.context.backbones[net.params.backbone][0]
    return TrainedNetwork(net.eval().to(backbones.device), entry, backbones.device)


def picture_logits(trained: TrainedNetwork, root: Path, pictures: Sequence[Picture], progress: Progress) -> Tensor:
    """Return logits (N, C) for the picture files of a study. Raises DataError if one is missing or has changed."""
    batches = _pixel_batches(trained, root, pictures, progress)
    return torch.cat([trained.logits(pixels) for pixels in batches])


@torch.no_grad()
def picture_features(
    networks: Sequence[TrainedNetwork], root: Path, pictures: Sequence[Picture], progress: Progress
) -> list[Tensor]:
    """Return the features (N, F) that the head of each network gets. All have the same frozen stages.

    Raises DataError if a picture is missing or has changed.
    """
    first = networks[0]
    found: list[list[Tensor]] = [[] for _ in networks]
    for pixels in _pixel_batches(first, root, pictures, progress):
        shared = first.net.entry([torch.from_numpy(pixels).to(first.device)])
        for rows, one in zip(found, networks, strict=True):
            rows.append(one.net.through_tail(shared).float().cpu())
    return [torch.cat(rows) for rows in found]


def _pixel_batches(
    trained: TrainedNetwork, root: Path, pictures: Sequence[Picture], progress: Progress
) -> Iterator[NDArray[np.uint8]]:
    """Yield the pixels (N, 3, P, P) of pictures, decoded in parallel."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for first in range(0, len(pictures), CLEAN_BATCH):
            chunk = pictures[first : first + CLEAN_BATCH]
            yield np.stack(
                list(pool.map(lambda p: _picture_pixels(root, p, trained.pixels, trained.interpolation), chunk))
            )
            progress(first + len(chunk), len(pictures))


def _picture_pixels(root: Path, picture: Picture, pixels: int, interpolation: str) -> NDArray[np.uint8]:
    """Return the pixels (3, P, P) of one picture. Raises DataError if its file no longer matches the manifest."""
    path = root / picture.path
    try:
        image = read_picture(path)
    except (UnreadableError, OSError) as error:
        raise DataError(
            f"{str(picture.part).capitalize()} picture {path} cannot be read: {error}.", "Restore the file."
        ) from error
    if pixel_digest(image) != picture.digest:
        raise DataError(
            f"{str(picture.part).capitalize()} picture {path} no longer matches the manifest.",
            "Restore the original file, or start a new study on the changed folder.",
        )
    return crop_square(image, pixels, interpolation)
