"""The Lightning Trainer of a trial, and the checkpoint that an interrupted one resumes from."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytorch_lightning as lightning
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import nn

from autotune.training.network import TrialNetwork

CHECKPOINT_SECONDS = 10


def build_trainer(device: torch.device, net: TrialNetwork, **more: Any) -> lightning.Trainer:
    """A Trainer that shows nothing of its own, in the precision that pays."""
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
        **more,
    )


@contextlib.contextmanager
def quiet_lightning() -> Iterator[None]:
    """Lightning tells what it finds on the machine; in a worker that goes to a log."""
    speaker = logging.getLogger("pytorch_lightning")
    before = speaker.level
    speaker.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except SystemExit as leave:  # what Lightning makes of Ctrl-C
        raise KeyboardInterrupt from leave
    finally:
        speaker.setLevel(before)


def bfloat16_pays(tail: nn.Module, device: torch.device) -> bool:
    """Whether training in bfloat16 is faster: it needs the hardware, and on a CPU a tail with something to do but
    without grouped convolutions, whose backward pass is up to twice as slow in it (benchmarks/precision.py).
    """
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    tests = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    has_hardware = device.type == "cpu" and any(getattr(torch.cpu, test, bool)() for test in tests)
    is_grouped = any(isinstance(m, nn.Conv2d) and m.groups > 1 for m in tail.modules())
    return has_hardware and not is_grouped and any(True for _ in tail.parameters())


def is_resumable(file: Path) -> bool:
    """Whether a checkpoint can be gone on from. One torn, or with code in it, is deleted: the trial starts anew."""
    if not file.exists():
        return False
    try:
        torch.load(file, map_location="cpu", weights_only=True)  # it may have come with a folder from elsewhere
    except Exception:  # whatever such a file makes pickle or zipfile raise
        file.unlink()
        return False
    return True


class ResumeCheckpoint(ModelCheckpoint):
    """Never saves between an epoch's last batch and its validation: resumed there, Lightning would skip the latter."""

    def on_train_batch_end(self, trainer: lightning.Trainer, *rest: Any, **more: Any) -> None:
        if not trainer.is_last_batch:
            super().on_train_batch_end(trainer, *rest, **more)


def resume_checkpoint(file: Path) -> ResumeCheckpoint:
    """Saves an unfinished trial at most ten seconds apart, so that little is lost by kill -9."""
    return ResumeCheckpoint(
        dirpath=file.parent,
        filename=file.stem,
        train_time_interval=timedelta(seconds=CHECKPOINT_SECONDS),
        enable_version_counter=False,
    )
