"""The Lightning Trainer of a trial, and the checkpoint that an interrupted trial resumes from."""

from __future__ import annotations

import contextlib
import gc
import logging
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, TypeVar

import pytorch_lightning as lightning
import torch
from torch import nn

from autotune.training.network import TrialNetwork

CHECKPOINT_SECONDS = 10.0  # between two checkpoints of an unfinished training, or more
CHECKPOINT_RATIO = 20  # times the duration of a save
N_PARTS = (1, 2, 4)  # of a batch, tried in this order while the memory is not enough

Trained = TypeVar("Trained")


def with_enough_memory(train: Callable[[int, Path], Trained], scratch: Path, name: str) -> Trained:
    """Call `train` with the number of parts of a batch, and with the file for the unfinished network in `scratch`.

    The number is 1, and 2 and 4 if the memory is not enough. Raises torch.OutOfMemoryError if 4 are not enough.
    """
    for n_parts in N_PARTS:
        unfinished = scratch / (f"{name}-in-{n_parts}.unfinished.ckpt" if n_parts > 1 else f"{name}.unfinished.ckpt")
        try:
            return train(n_parts, unfinished)
        except torch.OutOfMemoryError:
            delete_checkpoints(unfinished)
            if n_parts == N_PARTS[-1]:
                raise
            traceback.print_exc()  # to the log of the task
        gc.collect()  # not in the handler: the exception holds the tensors of the step
        torch.cuda.empty_cache()
    raise AssertionError


def delete_checkpoints(unfinished: Path) -> None:
    """Delete the checkpoints of an unfinished network: the one of its first phase, and those beside it of others."""
    for file in unfinished.parent.glob(f"*{unfinished.name}"):
        file.unlink(missing_ok=True)


def build_trainer(device: torch.device, net: TrialNetwork, **options: Any) -> lightning.Trainer:
    """Build a Trainer without output or logs, in the faster precision. options: arguments of Lightning's Trainer."""
    return lightning.Trainer(
        accelerator={"cuda": "gpu"}.get(device.type, device.type),
        devices=[device.index or 0] if device.type == "cuda" else 1,
        precision=training_precision(net.tail, device),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        **options,
    )


@contextlib.contextmanager
def quiet_lightning() -> Iterator[None]:
    """Suppress Lightning's messages about the machine. Workers do not need it: their output goes to a log."""
    logger = logging.getLogger("pytorch_lightning")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except SystemExit as error:  # Lightning raises it on Ctrl-C
        raise KeyboardInterrupt from error
    finally:
        logger.setLevel(level)


def training_precision(tail: nn.Module, device: torch.device) -> Literal["32-true", "bf16-mixed", "16-mixed"]:
    """Return the fastest precision: bfloat16, or float16 with scaled gradients on GPUs that lack it (T4, V100).

    A head alone is trained in float32, which is as fast. So are grouped convolutions on a CPU: their backward pass is
    up to twice as slow in bfloat16 (benchmarks/precision.py).
    """
    if not any(True for _ in tail.parameters()):
        return "32-true"
    if device.type == "cuda":
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "16-mixed"
    checks = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    has_hardware = device.type == "cpu" and any(getattr(torch.cpu, check, bool)() for check in checks)
    is_grouped = any(isinstance(m, nn.Conv2d) and m.groups > 1 for m in tail.modules())
    return "bf16-mixed" if has_hardware and not is_grouped else "32-true"


def is_resumable(file: Path) -> bool:
    """Return whether training can resume from a checkpoint. Deletes one that cannot be read or contains code."""
    if not file.exists():
        return False
    try:
        torch.load(file, map_location="cpu", weights_only=True)  # the file is not trusted
    except Exception:  # pickle and zipfile raise many types
        file.unlink()
        return False
    return True


class ResumeCheckpoint(lightning.Callback):
    """Saves an unfinished training from time to time, to limit the loss on kill -9.

    Never between an epoch's last batch and its validation: Lightning would skip the validation. Lightning's own
    ModelCheckpoint can do neither this nor wait in proportion to the time that a save takes.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._wait = CHECKPOINT_SECONDS
        self._saved = time.monotonic()

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        start = time.monotonic()
        if trainer.is_last_batch or start < self._saved + self._wait:
            return
        trainer.save_checkpoint(self._file)
        self._saved = time.monotonic()
        self._wait = max(CHECKPOINT_SECONDS, CHECKPOINT_RATIO * (self._saved - start))
