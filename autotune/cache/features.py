"""The feature cache: the outputs of a backbone's frozen stages, computed once per picture and stored on disk."""

from __future__ import annotations

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
from autotune.cache.resident import on_device
from autotune.cache.rows import RowStore, Writer
from autotune.data.augment import Invariances, augment, augmentation_key, random_draws
from autotune.data.catalog import Progress
from autotune.data.prefetch import prefetch, prefetch_count
from autotune.files import cache_folder, make_folder

VERSION = 1  # of augmenting, normalising and running the stages; incremented when the resulting rows change
N_VIEWS = 4  # augmented views per picture, of magnitude 1/4 to 1; view 0 is the picture itself
# All batches are padded to one size: a row must not depend on the other pictures in its batch.
BATCH, GPU_BATCH = 32, 256
CHUNK, GPU_CHUNK = 256, 512  # pictures between two writes; kill -9 loses at most twice these


class FrozenPrefix:
    """The frozen part of a trial's network: from a batch to the input of the unfrozen stages, without gradients.

    A batch is one of: pixels (N, 3, P, P) uint8; pixels with magnitude (N,) and draws (N, 16), to augment; cached
    features (N, ...), half precision; cached features with (N, 2) bool: flip horizontally, flip vertically.

    prefix: on the device. All trials share it, so it is no module: it is not moved, trained or saved with a network.
    """

    def __init__(
        self, prefix: nn.Sequential, traits: Traits, invariances: Invariances, device: torch.device | str = "cpu"
    ) -> None:
        self.prefix = prefix.eval().requires_grad_(False)
        self.invariances = invariances
        self.mean, self.std = (torch.tensor(one, device=device).view(1, 3, 1, 1) for one in (traits.mean, traits.std))

    @torch.no_grad()
    def __call__(self, batch: Sequence[Tensor]) -> Tensor:
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
        self._batch, self._chunk = (GPU_BATCH, GPU_CHUNK) if device.type == "cuda" else (BATCH, CHUNK)
        self._input = FrozenPrefix(nn.Sequential(), traits, invariances, device)
        self._stages = chain[: self.cuts[-1]].to(memory_format=torch.channels_last).eval()
        self._input_key = f"{pixels} {traits.interpolation} {traits.mean} {traits.std} {_processor(device)}"
        self._digests: dict[int, str] = {}
        blank = torch.zeros(1, 3, pixels, pixels, dtype=torch.uint8, device=device)
        outputs = list(self._outputs(self._input([blank]), 0))
        _refuse_infinite([(number, out) for number, out in outputs if self._is_half(number)])
        self.shapes = {number: tuple(out.shape[1:]) for number, out in outputs}

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
            with Writer() as writer:
                for one in passes:
                    for start, keys in self._starts(one).items():
                        for first in range(0, len(keys), self._chunk):
                            chunk = keys[first : first + self._chunk]
                            self._extend(one, chunk, start, writer)
                            done += len(chunk)
                            progress(done, total)
                        writer.finish()  # the next pass may read the rows

    def _key(self, cut: int, view: int) -> str:
        """Return a hash of everything except the picture that a row depends on: weights, input, view, code versions.

        Augmentation is included for augmented views only: changing it does not invalidate the rows of view 0.
        """
        if cut not in self._digests:
            self._digests[cut] = stages_digest(self._chain[:cut])
        joints = [joint for joint in self._joints if joint < cut]
        parts = [VERSION, pixel_cache.VERSION, self._batch, self._digests[cut], joints, self._input_key, view]
        if view:
            parts += [view / N_VIEWS, self.invariances, self.seed, augmentation_key()]
        return hashlib.blake2b(repr(parts).encode(), digest_size=10).hexdigest()

    def _is_half(self, number: int) -> bool:
        """Return whether the output of a stage is rounded to half precision."""
        return number in self._joints or number in self.cuts

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

    def _extend(self, one: _Pass, keys: list[str], start: int, writer: Writer) -> None:
        """Compute a chunk's missing rows from the outputs of the first `start` stages, and append them."""
        found: dict[int, list[Tensor]] = defaultdict(list)
        sums: list[tuple[int, Tensor]] = []
        inputs = prefetch(
            lambda n: (self._inputs(keys[n : n + self._batch], one.view, start),),
            range(0, len(keys), self._batch),
            self._prefetch,
        )
        for (x,) in inputs:
            for number, out in self._outputs(x, start):
                if self._is_half(number):
                    sums.append((number, out.sum(dtype=torch.float32)))
                if number in one.stores:
                    found[number].append(_copied_to_host(out))
        _refuse_infinite(sums)  # waits for the GPU, once per chunk
        writer.finish()  # the chunk before: the memory holds two
        for cut, batches in found.items():
            wanted = [i for i, key in enumerate(keys) if key in one.missing[cut]]
            if wanted:
                rows = torch.cat(batches).numpy()[wanted]  # without the padding
                writer.append(one.stores[cut], [keys[i] for i in wanted], rows)

    def _inputs(self, keys: list[str], view: int, start: int) -> Tensor:
        """Return a padded batch of inputs: normalised pixels (N, 3, P, P) of this view, or rows of cut `start`."""
        padded = keys + keys[:1] * (self._batch - len(keys))
        if start:
            rows = self.rows(start, view)
            return channels_last(on_device(rows.take(rows.places(padded)), self.device).float())
        squares = on_device(self.pixels.take(self.pixels.places(padded)), self.device)
        if view == 0:
            return self._input([squares])
        magnitude = torch.full((self._batch,), view / N_VIEWS, device=self.device)
        drawn = random_draws(padded, [view] * self._batch, self.seed).to(self.device)
        return self._input([squares, magnitude, drawn])

    @torch.no_grad()
    def _outputs(self, x: Tensor, start: int) -> Iterator[tuple[int, Tensor]]:
        """Yield the number and outputs of each stage after `start`; those of cuts and joints are in half precision."""
        for number, stage in enumerate(self._stages[start:], start + 1):
            x = channels_last(stage(x))
            if not self._is_half(number):
                yield number, x
                continue
            half = x.half()
            yield number, half
            if number in self._joints:
                x = channels_last(half.float())


def _copied_to_host(out: Tensor) -> Tensor:
    """Return a copy in the memory of the CPU, which is complete once the GPU has been waited for."""
    if out.device.type != "cuda":
        return out.cpu().contiguous()
    host = torch.empty(out.shape, dtype=out.dtype, pin_memory=True)
    return host.copy_(out.contiguous(), non_blocking=True)


def _refuse_infinite(sums: Sequence[tuple[int, Tensor]]) -> None:
    """Raise OverflowError if the output of a stage is not finite. sums: of the outputs, with the stages' numbers."""
    finite = torch.stack([each.sum(dtype=torch.float32) for _, each in sums]).isfinite().tolist()
    for (number, _), is_finite in zip(sums, finite, strict=True):
        if not is_finite:
            raise OverflowError(f"Stage {number} returns values that are NaN or exceed half precision (65,504).")


def _processor(device: torch.device) -> str:
    """Return the kind of device, and the name of a GPU: its rows are not those of another."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def flip_maps(maps: Tensor, which: Tensor) -> Tensor:
    """Flip feature maps (N, C, H, W) horizontally if which[:, 0], vertically if which[:, 1]; which: (N, 2) bool."""
    across, down = which[:, 0].view(-1, 1, 1, 1), which[:, 1].view(-1, 1, 1, 1)
    maps = torch.where(across, maps.flip(3), maps)
    return torch.where(down, maps.flip(2), maps)


def channels_last(x: Tensor) -> Tensor:
    """Return the tensor in channels-last layout, in which convolutions are faster."""
    return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x
