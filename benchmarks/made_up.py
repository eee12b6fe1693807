"""Generated pictures, row stores and trial contexts, for benchmarks of more pictures than is practical to download."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import save_file

from autotune.backbones.registry import build_stages, discover
from autotune.cache.rows import RowStore
from autotune.data.catalog import Catalog
from autotune.data.picture import Picture
from autotune.data.split import TEST, TRAIN, VALIDATION, Split
from autotune.search.candidates import select_backbones
from autotune.search.plan import build_context, make_plan
from autotune.search.settings import read_settings
from autotune.training.context import TrialContext
from autotune.training.outcome import Epoch

CLASSES = tuple(f"class{number}" for number in range(10))


class Reporter:
    """A reporter that never stops a trial. rows: the reported epochs."""

    def __init__(self) -> None:
        self.rows: list[Epoch] = []

    def epoch(self, row: Epoch) -> None:
        self.rows.append(row)

    def check_time(self) -> None:
        """There is no time limit."""

    def cache_progress(self, done: int, total: int) -> None:
        pass


def catalog(n: int, root: Path) -> Catalog:
    """Return a catalog of n pictures without files, with unique digests and alternating classes."""
    pictures = tuple(
        Picture(f"{CLASSES[i % 10]}/{i}.jpg", CLASSES[i % 10], None, _digest(i), 256, "0 0") for i in range(n)
    )
    return Catalog(root, CLASSES, pictures, ())


def split(n_train: int, n_rest: int, root: Path) -> Split:
    """Return a split with n_train training pictures, and n_rest in each of the validation and test sets."""
    names = [TRAIN] * n_train + [VALIDATION] * n_rest + [TEST] * n_rest
    pictures = catalog(len(names), root).pictures
    return Split(CLASSES, tuple(replace(p, part=name) for p, name in zip(pictures, names, strict=True)), (), {})


def write_blank(rows: RowStore, keys: Sequence[str]) -> None:
    """Write rows of zeros with these keys, in a sparse file that takes no disk space."""
    rows.append(keys[:1], np.zeros((1, *rows.shape), rows.dtype))
    with (rows.folder / "rows.bin").open("r+b") as out:
        out.truncate(len(keys) * rows.row_bytes)
    with (rows.folder / "keys.bin").open("ab") as out:
        out.write(bytes.fromhex("".join(keys[1:])))


def write_random(rows: RowStore, keys: Sequence[str], chunk: int = 256) -> None:
    """Write rows of random bytes with these keys."""
    rng = np.random.default_rng(0)
    for start in range(0, len(keys), chunk):
        some = keys[start : start + chunk]
        rows.append(some, rng.integers(0, 256, (len(some), *rows.shape), rows.dtype))


def random_weights(names: Sequence[str], folder: Path) -> Path:
    """Write random weights of these backbones, to avoid downloads; return the folder."""
    folder.mkdir()
    for name in names:
        chain = build_stages(discover().find(name), pretrained=False)
        save_file(
            {key: value.contiguous() for key, value in chain.state_dict().items()}, folder / f"{name}.safetensors"
        )
    return folder


def context(parts: Split, device: str, flags: dict[str, Any], weights: Path | None = None) -> TrialContext:
    """Return the trial context of a study with these settings."""
    settings = read_settings(None, flags)
    say: Callable[[str], None] = lambda _: None  # noqa: E731
    chosen = select_backbones(settings, discover(), weights, device, parts.side, say)
    return build_context(make_plan(settings, parts, chosen))


def _digest(number: int) -> str:
    return hashlib.blake2b(str(number).encode(), digest_size=16).hexdigest()
