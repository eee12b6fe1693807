"""The feature cache: the outputs of a backbone's frozen stages, computed once per picture and stored on disk."""

from __future__ import annotations

import copy
import hashlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor, nn

from autotune.backbones.spec import Traits
from autotune.backbones.weights import stages_digest
from autotune.cache import pixels as pixel_cache
from autotune.cache.pixels import pixel_rows
from autotune.cache.rows import RowStore
from autotune.data.augment import Invariances, augment, augmentation_key, random_draws
from autotune.data.catalog import Progress
from autotune.data.prefetch import prefetch, prefetch_count
from autotune.files import cache_folder, make_folder

VERSION = 1  # of augmenting, normalising and running the stages; incremented when the resulting rows change
N_VIEWS = 4  # augmented views per picture, of magnitude 1/4 to 1; view 0 is the picture itself
CHUNK = 256  # pictures between two writes; kill -9 loses at most these
BATCH = 32  # all batches are padded to this size: a row must not depend on the other pictures in its batch

Halves = np.ndarray[tuple[int, ...], np.dtype[np.float16]]


class FrozenPrefix(nn.Module):
    """The frozen part of a trial's network: from a batch to the input of the unfrozen stages, without gradients.

    A batch is one of: pixels (N, 3, P, P) uint8; pixels with magnitude (N,) and draws (N, 16), to augment; cached
    features (N, ...), half precision; cached features with (N, 2) bool: flip horizontally, flip vertically.
    """

    def __init__(self, prefix: nn.Sequential, traits: Traits, invariances: Invariances) -> None:
        super().__init__()
        self.prefix = copy.deepcopy(prefix).eval().requires_grad_(False)  # a copy: all trials share the chain
        self.invariances = invariances
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(traits.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(traits.std).view(1, 3, 1, 1), persistent=False)

    def train(self, mode: bool = True) -> FrozenPrefix:
        """Stay in evaluation mode, to compute the same outputs in every trial."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, batch: Sequence[Tensor]) -> Tensor:
        if batch[0].dtype != torch.uint8:
            rows = batch[0].float()
            return channels_last(flip_maps(rows, batch[1]) if len(batch) > 1 else rows)
        image = augment(batch[0], batch[1], batch[2], self.invariances) if len(batch) > 1 else batch[0].float().div(255)
        out: Tensor = self.prefix(channels_last((image - self.mean) / self.std))
        return out


@dataclass(frozen=True)
class _Pass:
    """The work of one view. todo: pictures that lack a row. stores, missing: by cut."""

    view: int
    todo: list[str]
    stores: Mapping[int, RowStore]
    missing: Mapping[int, set[str]]


class FeatureCache:
    """The outputs of a backbone's first stages at several cuts, per picture and view.

    cuts: numbers of stages, counted from the first. joints: stages whose outputs are always rounded to half precision,
    cached or not: a deeper cut then has the same values, computed from pixels or from a joint's rows on disk. Rounding
    early stages would cost a digit of the features; rounding late ones (`StageProfile.half_precision_cuts`) loses no
    more than storing them.
    """

    def __init__(self, name: str, chain: nn.Sequential, traits: Traits, pixels: int, invariances: Invariances,
                 seed: int, device: torch.device, cuts: Sequence[int], joints: Sequence[int]) -> None:  # fmt: skip
        self.pixels = pixel_rows(pixels, traits.interpolation)
        self.folder = cache_folder() / "features" / f"{name.replace(':', '-')}-{pixels}"
        self.cuts = sorted(cuts)
        self.seed = seed
        self.device = device
        self.invariances = invariances
        self._chain = chain
        self._joints = sorted(joints)
        self._prefetch = prefetch_count(device)
        self._input = FrozenPrefix(nn.Sequential(), traits, invariances).to(device)
        self._stages = copy.deepcopy(chain[: self.cuts[-1]])
        self._stages.to(device).to(memory_format=torch.channels_last).eval().requires_grad_(False)
        self._input_key = f"{pixels} {traits.interpolation} {traits.mean} {traits.std} {device.type}"
        self._digests: dict[int, str] = {}
        blank = torch.zeros(1, 3, pixels, pixels, dtype=torch.uint8, device=device)
        self.shapes = {number: tuple(out.shape[1:]) for number, out in self._outputs(self._input([blank]), 0)}

    def rows(self, cut: int, view: int) -> RowStore:
        """Return the store of the first `cut` stages' outputs for one view: half precision, keyed by picture digest."""
        return RowStore(self.folder / f"cut{cut}-view{view}-{self._key(cut, view)}", self.shapes[cut], np.float16)

    def fill(self, wanted: Mapping[int, Sequence[str]], progress: Progress) -> None:
        """Compute the missing rows of all cuts in one pass per view. Safe with concurrent workers and after kill -9.

        wanted: digests by view. progress: of the pictures, each counted once per view.
        """
        with FileLock(make_folder(self.folder) / "lock"):
            passes = [self._planned(digests, view) for view, digests in wanted.items()]
            done, total = 0, sum(len(one.todo) for one in passes)
            for one in passes:
                for start, keys in self._starts(one).items():
                    for first in range(0, len(keys), CHUNK):
                        chunk = keys[first : first + CHUNK]
                        self._extend(one, chunk, start)
                        done += len(chunk)
                        progress(done, total)

    def _key(self, cut: int, view: int) -> str:
        """Return a hash of everything except the picture that a row depends on: weights, input, view, code versions.

        Augmentation is included for augmented views only: changing it does not invalidate the rows of view 0.
        """
        if cut not in self._digests:
            self._digests[cut] = stages_digest(self._chain[:cut])
        joints = [joint for joint in self._joints if joint < cut]
        parts = [VERSION, pixel_cache.VERSION, BATCH, self._digests[cut], joints, self._input_key, view]
        if view:
            parts += [view / N_VIEWS, self.invariances, self.seed, augmentation_key()]
        return hashlib.blake2b(repr(parts).encode(), digest_size=10).hexdigest()

    def _planned(self, digests: Sequence[str], view: int) -> _Pass:
        stores = {cut: self.rows(cut, view) for cut in self.cuts}
        missing = {cut: set(rows.missing(digests)) for cut, rows in stores.items()}
        todo = [key for key in dict.fromkeys(digests) if any(key in keys for keys in missing.values())]
        return _Pass(view, todo, stores, missing)

    def _starts(self, one: _Pass) -> dict[int, list[str]]:
        """Group pictures by the start of their computation: the deepest usable joint on disk, or 0 for pixels."""
        left, found = list(one.todo), {}
        for cut in reversed(self._joints):
            above = [key for key in left if min(c for c in self.cuts if key in one.missing[c]) > cut]
            if above and any(self.folder.glob(f"cut{cut}-view{one.view}-*")):
                absent = set(self.rows(cut, one.view).missing(above))
                found[cut] = [key for key in above if key not in absent]
                left = [key for key in left if key not in set(found[cut])]
        return {**{cut: keys for cut, keys in found.items() if keys}, **({0: left} if left else {})}

    def _extend(self, one: _Pass, keys: list[str], start: int) -> None:
        """Compute a chunk's missing rows from the outputs of the first `start` stages, and append them."""
        found: dict[int, list[Halves]] = defaultdict(list)
        inputs = prefetch(
            lambda n: (self._inputs(keys[n : n + BATCH], one.view, start),), range(0, len(keys), BATCH), self._prefetch
        )
        for (x,) in inputs:
            for cut, out in self._outputs(x, start):
                if cut in one.stores:
                    found[cut].append(out.cpu().contiguous().numpy())
        for cut, batches in found.items():
            wanted = [i for i, key in enumerate(keys) if key in one.missing[cut]]
            if wanted:
                rows = np.concatenate(batches)[wanted]  # without the padding
                one.stores[cut].append([keys[i] for i in wanted], rows)

    def _inputs(self, keys: list[str], view: int, start: int) -> Tensor:
        """Return a padded batch of inputs: normalised pixels (32, 3, P, P) of this view, or rows of cut `start`."""
        padded = keys + keys[:1] * (BATCH - len(keys))
        if start:
            rows = self.rows(start, view)
            return channels_last(torch.from_numpy(rows.take(rows.places(padded))).to(self.device).float())
        squares = torch.from_numpy(self.pixels.take(self.pixels.places(padded))).to(self.device)
        if view == 0:
            return torch.as_tensor(self._input([squares]))
        magnitude = torch.full((BATCH,), view / N_VIEWS, device=self.device)
        drawn = random_draws(padded, [view] * BATCH, self.seed).to(self.device)
        return torch.as_tensor(self._input([squares, magnitude, drawn]))

    @torch.no_grad()
    def _outputs(self, x: Tensor, start: int) -> Iterator[tuple[int, Tensor]]:
        """Yield the number and outputs of each stage after `start`; those of cuts and joints are in half precision."""
        for number, stage in enumerate(self._stages[start:], start + 1):
            x = channels_last(stage(x))
            if number not in self._joints and number not in self.cuts:
                yield number, x
                continue
            half = x.half()
            if not torch.isfinite(half.sum(dtype=torch.float32)):
                raise OverflowError(f"Stage {number} returns values that are NaN or exceed half precision (65,504).")
            yield number, half
            if number in self._joints:
                x = channels_last(half.float())


def flip_maps(maps: Tensor, which: Tensor) -> Tensor:
    """Flip feature maps (N, C, H, W) horizontally if which[:, 0], vertically if which[:, 1]; which: (N, 2) bool."""
    across, down = which[:, 0].view(-1, 1, 1, 1), which[:, 1].view(-1, 1, 1, 1)
    maps = torch.where(across, maps.flip(3), maps)
    return torch.where(down, maps.flip(2), maps)


def channels_last(x: Tensor) -> Tensor:
    """Return the tensor in channels-last layout, in which convolutions are faster."""
    return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x
