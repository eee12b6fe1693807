"""The bank: what the frozen part of a backbone computes for a picture, computed once and kept on disk."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor, nn

from autotune.augment import Subject, augment, draws
from autotune.images import Progress
from autotune.pixels import store as pixel_store
from autotune.plugins import Traits
from autotune.store import Rows, cache_folder, made
from autotune.weights import digest

N_VIEWS = 4  # augmented views a picture, of magnitude 1/4 to 1; view 0 is the picture itself
BATCH = 32  # every batch is padded to this: a row then never depends on who its neighbours were
MOST_BYTES = 8 * 2**30  # a cut that would need more is computed afresh each epoch instead


class Entry(nn.Module):
    """From what a batch holds to what the tail takes, on the batch's own device and without gradients.

    A batch is one of: pixels (N, 3, P, P) uint8; pixels with magnitude (N,) and draws (N, 16), to be augmented;
    or rows of a bank (N, ...), half precision.
    """

    def __init__(self, prefix: nn.Sequential, traits: Traits, subject: Subject) -> None:
        super().__init__()
        self.prefix = copy.deepcopy(prefix).eval().requires_grad_(False)  # the chain is shared by all trials
        self.subject = subject
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(traits.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(traits.std).view(1, 3, 1, 1), persistent=False)

    def train(self, mode: bool = True) -> Entry:
        """Stays in evaluation mode: what is frozen computes the same for every trial."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, batch: Sequence[Tensor]) -> Tensor:
        if batch[0].dtype != torch.uint8:
            return laid_out(batch[0].float())
        image = augment(batch[0], batch[1], batch[2], self.subject) if len(batch) > 1 else batch[0].float().div(255)
        out: Tensor = self.prefix(laid_out((image - self.mean) / self.std))
        return out


class Bank:
    """The outputs of a backbone's first stages, at each of some cuts, for every picture and view asked for."""

    def __init__(self, name: str, chain: nn.Sequential, traits: Traits, pixels: int, subject: Subject, seed: int,
                 device: torch.device, cuts: Sequence[int]) -> None:  # fmt: skip
        self.pixels = pixel_store(pixels, traits.interpolation)
        self.cuts = sorted(cuts)
        self.seed = seed
        self.device = device
        deepest = copy.deepcopy(chain[: self.cuts[-1]])
        self._entry = Entry(nn.Sequential(), traits, subject).to(device)
        self._stages = deepest.to(device).to(memory_format=torch.channels_last).eval().requires_grad_(False)
        self._folder = cache_folder() / "banks" / f"{name.replace(':', '-')}-{pixels}"
        looks = f"{pixels} {traits.interpolation} {traits.mean} {traits.std} {device.type}"
        self._names = {cut: f"{digest(chain[:cut])} {looks}" for cut in self.cuts}
        self._view_name = f"{subject} {seed}"
        blank = torch.zeros(1, 3, pixels, pixels, dtype=torch.uint8, device=device)
        self.shapes = {cut: tuple(out.shape[1:]) for cut, out in self._outputs(self._entry([blank])).items()}

    def rows(self, cut: int, view: int) -> Rows:
        """The stored outputs of the first `cut` stages for one view, half precision, keyed by picture digest."""
        name = f"{self._names[cut]} {view} {self._view_name if view else ''}"
        key = hashlib.blake2b(name.encode(), digest_size=10).hexdigest()
        return Rows(self._folder / f"cut{cut}-view{view}-{key}", self.shapes[cut], np.float16)

    def fill(self, digests: Sequence[str], views: Sequence[int], progress: Progress) -> None:
        """Compute what is missing, all cuts in one pass; safe beside other workers and against kill -9."""
        with FileLock(made(self._folder) / "lock"):
            for view in views:
                stores = {cut: self.rows(cut, view) for cut in self.cuts}
                missing = {cut: set(rows.missing(digests)) for cut, rows in stores.items()}
                todo = [key for key in dict.fromkeys(digests) if any(key in keys for keys in missing.values())]
                for start in range(0, len(todo), BATCH):
                    keys = todo[start : start + BATCH]
                    for cut, out in self._outputs(self._seen(keys, view)).items():
                        wanted = [i for i, key in enumerate(keys) if key in missing[cut]]
                        stores[cut].append([keys[i] for i in wanted], _half(out)[wanted])
                    progress(start + len(keys), len(todo))

    def _seen(self, keys: list[str], view: int) -> Tensor:
        """Normalised pixels of one padded batch (32, 3, P, P), as this view shows them."""
        padded = keys + keys[:1] * (BATCH - len(keys))
        pixels = torch.from_numpy(self.pixels.take(self.pixels.places(padded))).to(self.device)
        if view == 0:
            return torch.as_tensor(self._entry([pixels]))
        magnitude = torch.full((BATCH,), view / N_VIEWS, device=self.device)
        drawn = draws(padded, [view] * BATCH, self.seed).to(self.device)
        return torch.as_tensor(self._entry([pixels, magnitude, drawn]))

    @torch.no_grad()
    def _outputs(self, x: Tensor) -> dict[int, Tensor]:
        found = {}
        for number, stage in enumerate(self._stages, 1):
            x = stage(x)
            if number in self.cuts:
                found[number] = x
        return found


def row_bytes(shape: Sequence[int]) -> int:
    return 2 * int(np.prod(shape))


def bank_bytes(shape: Sequence[int], n_train: int, n_rest: int, augmented: bool) -> int:
    """What one cut's rows take on disk: every clean view, and the training pictures' augmented ones."""
    return row_bytes(shape) * (n_train * (1 + N_VIEWS * augmented) + n_rest)


def laid_out(x: Tensor) -> Tensor:
    """Channels last, which convolutions run faster on; the numbers stay the same."""
    return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x


def _half(out: Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.float16]]:
    half = out.half().cpu()
    if not torch.isfinite(half).all():
        raise OverflowError("The backbone's outputs exceed what half precision holds (65,504) or are not numbers.")
    return half.contiguous().numpy()
