"""The Lightning Trainer of a trial, and the checkpoint that an interrupted trial resumes from."""

from __future__ import annotations

import contextlib
import gc
import logging
import traceback
import warnings
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import pytorch_lightning as lightning
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import nn

from autotune.training.network import TrialNetwork

CHECKPOINT_SECONDS = 10
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
        precision="bf16-mixed" if bfloat16_pays(net.tail, device) else "32-true",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        deterministic="warn" if device.type == "cuda" else None,
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


def bfloat16_pays(tail: nn.Module, device: torch.device) -> bool:
    """Return whether training in bfloat16 is faster. It needs hardware support and, on a CPU, a non-empty tail without
    grouped convolutions: their backward pass is up to twice as slow in bfloat16 (benchmarks/precision.py).
    """
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    checks = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    has_hardware = device.type == "cpu" and any(getattr(torch.cpu, check, bool)() for check in checks)
    is_grouped = any(isinstance(m, nn.Conv2d) and m.groups > 1 for m in tail.modules())
    return has_hardware and not is_grouped and any(True for _ in tail.parameters())


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


class ResumeCheckpoint(ModelCheckpoint):
    """Checkpoint that never saves between an epoch's last batch and its validation: Lightning would skip validation."""

    def on_train_batch_end(self, trainer: lightning.Trainer, *args: Any, **kwargs: Any) -> None:
        if not trainer.is_last_batch:
            super().on_train_batch_end(trainer, *args, **kwargs)


def resume_checkpoint(file: Path) -> ResumeCheckpoint:
    """Return a callback that saves an unfinished trial every ten seconds, to limit the loss on kill -9."""
    return ResumeCheckpoint(
        dirpath=file.parent,
        filename=file.stem,
        train_time_interval=timedelta(seconds=CHECKPOINT_SECONDS),
        enable_version_counter=False,
    )
