"""Predictions of the finals' networks on the pictures held out from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from autotune.data.folds import assign_folds
from autotune.data.picture import Picture
from autotune.data.split import TRAIN, VALIDATION, Split
from autotune.study.storage.files import StudyFiles
from autotune.study.storage.record import Record
from autotune.study.storage.rows import COMPLETE, Final, FoldRow
from autotune.training.context import WHOLE_POOL


@dataclass(frozen=True)
class HeldOut:
    """Predictions on held-out pictures. logits: (N, C)."""

    pictures: tuple[Picture, ...]
    logits: Tensor


def folds_of(rows: Sequence[FoldRow], trial: int) -> list[FoldRow]:
    """Return the complete networks of a trial that hold out a fold."""
    return [row for row in rows if row.trial == trial and row.state == COMPLETE and row.fold != WHOLE_POOL]


def held_out_of(final: Final, record: Record, folder: Path, split: Split) -> HeldOut | None:
    """Return the predictions of the networks of a final model's folds, or None without folds.

    folder: of the study. Raises StudyError if a file is missing or damaged.
    """
    rows = [row for row in folds_of(record.folds(), final.trial) if row.fold in final.folds]
    return read_held_out(StudyFiles(folder, record), split, rows) if rows else None


def read_held_out(files: StudyFiles, split: Split, rows: Sequence[FoldRow]) -> HeldOut:
    """Return the predictions of several networks, in the order of rows.

    Raises StudyError if a file is missing or damaged.
    """
    pool = (*split.part(TRAIN), *split.part(VALIDATION))
    folds = assign_folds(split)
    pictures = [
        picture for row in rows for picture, fold in zip(pool, folds, strict=True) if fold == row.fold
    ]  # in the order of `TrialContext.held_out`
    return HeldOut(tuple(pictures), torch.cat([_logits(files.content(str(row.logits))) for row in rows]))


def _logits(content: bytes) -> Tensor:
    return safetensors.torch.load(content)["logits"]
